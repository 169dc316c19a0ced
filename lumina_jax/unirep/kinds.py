"""What kinds of records a run tells apart in its metrics: by task, and by the area of the last image."""

import math

import numpy as np

from lumina_jax.unirep.tasks import TASKS

TASK_NAMES = (*TASKS, "other")
# Sides of squares; an image counts to the one nearest to its own area in proportion. 0: a record without image.
AREAS_PX = (0, 64, 96, 112, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_LOG_SIDES = np.log(AREAS_PX[1:])


def task_index(name: str) -> int:
    """The place of a task in TASK_NAMES; that of "other" for any other name."""
    return TASK_NAMES.index(name if name in TASKS else "other")


def area_index(size: tuple[int, int]) -> int:
    """The place in AREAS_PX of an image of (width, height) px.

    704x352 px have the area of a square of 498: the index of 512.
    """
    width_px, height_px = size
    if width_px * height_px == 0:
        return 0
    side = math.log(width_px * height_px) / 2
    return 1 + int(np.argmin(np.abs(_LOG_SIDES - side)))
