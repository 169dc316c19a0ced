"""Label the pixels of a picture: which background it has, and which colour is where."""

import numpy as np

from lumina_jax.data.scenes.render import BACKGROUND_RGB, COLOUR_RGB

UNKNOWN = "unknown"
COLOURS = (*COLOUR_RGB, UNKNOWN)
SHADES = (0.62, 1.12)  # brightness within an object, relative to its colour
BACKGROUND_TOLERANCE = 26.0  # RGB distance of a pixel from the gradient
LARGEST_SHIFT = 10.0  # of the background's colour, per channel
LEAST_BACKGROUND = 0.35  # share of the picture that must follow one of the gradients
FOREIGN = 45.0  # RGB distance at which a pixel belongs to no known colour


def find_background(planes: np.ndarray) -> tuple[str, np.ndarray]:
    """The gradient that the picture follows best, and every pixel's distance from it; `planes` is [3, Y, X].

    A shift of the whole background up to LARGEST_SHIFT is allowed for. ("unknown", anything) when none fits.
    """
    off = {name: np.linalg.norm(_difference(planes, name, 3), axis=0) for name in BACKGROUND_RGB}
    name = min(off, key=lambda key: float(np.median(off[key])))
    if float((off[name] < BACKGROUND_TOLERANCE).mean()) < LEAST_BACKGROUND:
        return UNKNOWN, planes[0]
    shift = np.median(_difference(planes, name, 3)[:, off[name] < BACKGROUND_TOLERANCE], axis=1)
    difference = (
        _difference(planes, name, 1) - np.clip(shift, -LARGEST_SHIFT, LARGEST_SHIFT)[:, None, None]
    )
    difference *= difference
    return name, np.sqrt(difference[0] + difference[1] + difference[2])


def _difference(planes: np.ndarray, background: str, step: int) -> np.ndarray:
    """[3, rows, columns]: every `step`-th pixel, down and across, minus a background's gradient there."""
    height = planes.shape[1]
    share = ((np.arange(height, dtype=np.float32) + 0.5) / height)[::step]
    top, bottom = (np.array(rgb, np.float32)[:, None] for rgb in BACKGROUND_RGB[background])
    return planes[:, ::step, ::step] - (top * (1 - share) + bottom * share)[..., None]


def colour_labels(planes: np.ndarray, away: np.ndarray) -> np.ndarray:
    """int8 [Y, X]: index into COLOURS, -1 on the background.

    Edges mix two colours into a third; a class therefore only counts near places where it fills a 3x3 square.
    """
    rows, columns = np.nonzero(away > BACKGROUND_TOLERANCE * 0.75)
    chosen = planes[:, rows, columns]
    costs = np.full((len(COLOURS) + 1, len(rows)), FOREIGN, np.float32)
    for index, rgb in enumerate(COLOUR_RGB.values()):
        colour = np.array(rgb, np.float32)
        shade = np.clip(colour @ chosen / (colour @ colour), *SHADES)
        off = chosen - shade * colour[:, None]
        costs[index] = np.sqrt((off * off).sum(axis=0))
    costs[-1] = away[rows, columns]
    labels = np.full(away.shape, -1, np.int8)
    labels[rows, columns] = _cheapest(costs)
    for index in range(len(COLOURS)):
        near = grown(~grown(labels != index, 1), 3)
        costs[index, ~near[rows, columns]] = np.inf
    labels[rows, columns] = _cheapest(costs)
    return labels


def _cheapest(costs: np.ndarray) -> np.ndarray:
    """Index of the least cost; the last row, the background, is -1."""
    best = costs.argmin(axis=0)
    return np.where(best == len(costs) - 1, -1, best).astype(np.int8)


def grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask and every pixel up to `steps` rows and columns from it."""
    for _ in range(steps):
        mask = mask.copy()
        mask[1:] |= mask[:-1].copy()
        mask[:-1] |= mask[1:].copy()
        mask[:, 1:] |= mask[:, :-1].copy()
        mask[:, :-1] |= mask[:, 1:].copy()
    return mask
