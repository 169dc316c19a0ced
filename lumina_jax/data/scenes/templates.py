"""The silhouettes that the detector looks for: every shape, pose and size, at the scale of one canvas."""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from lumina_jax.data.scenes.geometry import stamp
from lumina_jax.data.scenes.scene import ARMS, LEGS, SHAPES, radii


class Template(NamedTuple):
    """One silhouette, centred between the middle pixels of an even window."""

    shape: str
    size: str
    radius_px: float
    mask: np.ndarray  # float32 [n, n], coverage
    rim: np.ndarray  # float32 [n, n], 1 just outside of the silhouette
    area: float  # sum of `mask`


class Spectra(NamedTuple):
    """Conjugate spectra [template, rows, columns] of a bank on one coarse raster, to correlate everywhere at once."""

    masks: np.ndarray  # complex64
    rims: np.ndarray  # complex64


def coarse_factor(height_px: int, width_px: int) -> int:
    """Pixels a side of the cells on which silhouettes are first sought."""
    return max(1, round((height_px * width_px) ** 0.5 / 40))


@lru_cache(maxsize=32)
def bank(height_px: int, width_px: int) -> tuple[Template, ...]:
    """The templates of a canvas: 25 silhouettes (18 of them poses of the figure) in every size."""
    side_px, factor = (height_px * width_px) ** 0.5, coarse_factor(height_px, width_px)
    looks = [(shape, None) for shape in SHAPES if shape != "figure"]
    looks += [("figure", pose) for pose in product(ARMS, ARMS, LEGS)]
    return tuple(
        _template(shape, pose, size, radius * side_px, factor)
        for size, radius in radii(side_px).items()
        for shape, pose in looks
    )


def largest_window(height_px: int, width_px: int) -> int:
    """Side of the largest template's window, px."""
    return max(len(template.mask) for template in bank(height_px, width_px))


@lru_cache(maxsize=64)
def spectra(height_px: int, width_px: int, rows: int, columns: int) -> Spectra:
    """The spectra of a canvas' templates on a raster of `rows` x `columns` cells, at least a template's window."""
    factor = coarse_factor(height_px, width_px)
    half = largest_window(height_px, width_px) // factor // 2
    both = []
    for name in ("mask", "rim"):
        raster = np.zeros((len(bank(height_px, width_px)), rows, columns), np.float32)
        for index, template in enumerate(bank(height_px, width_px)):
            small = shrink(getattr(template, name), factor) * factor**2
            corner = half - len(small) // 2
            raster[index, corner : corner + len(small), corner : corner + len(small)] = small
        # The silhouettes' centres move to the corner of cell (0, 0).
        both.append(
            np.conj(np.asarray(fft.rfft2(np.roll(raster, (-half, -half), axis=(1, 2))))).astype(
                np.complex64
            )
        )
    return Spectra(*both)


def shrink(values: np.ndarray, factor: int) -> np.ndarray:
    """Mean over cells of `factor` px a side; a last partial cell is filled up with zeros."""
    rows, columns = values.shape
    padded = np.pad(values, ((0, -rows % factor), (0, -columns % factor)))
    cells = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    return cells.mean(axis=(1, 3), dtype=np.float32)


def _template(
    shape: str, pose: tuple[str, str, str] | None, size: str, radius_px: float, factor: int
) -> Template:
    """The window is a multiple of two coarse cells, and the silhouette's centre is its middle."""
    drawn = stamp(shape, pose, radius_px, 0.0, 0.0)
    coverage = drawn.coverage[: 2 * drawn.before, : 2 * drawn.before]
    pad = -(len(coverage) // 2) % factor + factor
    mask = np.pad(coverage, pad)
    outside = np.asarray(ndimage.distance_transform_edt(mask < 0.5))
    rim = ((outside > 1.5) & (outside <= 1.5 + max(1.5, 0.11 * radius_px))).astype(np.float32)
    return Template(shape, size, radius_px, mask, rim, float(mask.sum()))
