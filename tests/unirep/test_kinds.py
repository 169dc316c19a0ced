"""Kinds of records by name and size."""

import pytest

from lumina_jax.config import GridConfig
from lumina_jax.unirep.grid import crop_sizes
from lumina_jax.unirep.kinds import AREAS_PX, TASK_NAMES, area_index, task_index


def test_tasks_have_an_index_of_their_own_and_others_share_the_last():
    assert [task_index(name) for name in TASK_NAMES] == list(range(len(TASK_NAMES)))
    assert task_index("juggling") == task_index("other") == len(TASK_NAMES) - 1


@pytest.mark.parametrize("target_px", [384, 512, 768, 1024])
def test_every_crop_of_an_area_counts_to_it(target_px: int):
    sizes = crop_sizes(target_px, GridConfig())
    assert {AREAS_PX[area_index(size)] for size in sizes} == {target_px}


def test_a_record_without_image_is_apart():
    assert AREAS_PX[area_index((0, 0))] == 0
