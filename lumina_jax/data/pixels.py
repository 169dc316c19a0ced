"""The VQGAN's batches, a pure function of (config, step): all images of a batch have one size."""

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import grain
import numpy as np

from lumina_jax.data.images import unpack_image
from lumina_jax.data.stepwise import Batch, Curriculum, Rows, by_stage, seed_of, shares
from lumina_jax.dims import pick
from lumina_jax.experiment import Stage

CROP_STEP_PX = 8  # crops start on this grid: the scenes' own, so objects keep their place relative to the patches


class PixelSource(NamedTuple):
    """The drawn images of one source, in the order of its cycle of sizes."""

    records: Any  # random access to packed images
    num_sizes: int
    crop_px: int = 0


def pixel_batches(
    sources: Mapping[str, PixelSource],
    curriculum: Curriculum,
    seed: int,
    start_step: int = 0,
    rows: Rows = Rows(),
    num_workers: int = 0,
) -> Generator[Batch, None, None]:
    """{"pixels": uint8[B,Y,X,3]} from `start_step` to the run's end; all images of a batch have one size."""

    def stage_batches(index: int, stage: Stage) -> Callable[[int], Batch]:
        images = partial(_image_group, seed=seed, stage_index=index, rows=rows.of(stage.batch_size))
        groups, weights = [], []
        for name, weight in stage.mixture:
            source = pick(sources, name, "source of the mixture")
            num_groups = 1 if source.crop_px else source.num_sizes
            for group in range(num_groups):
                records = source.records
                chosen = grain.MapDataset.source(records)[group::num_groups]
                shuffled = chosen.seed(seed_of(seed, index, name, group)).shuffle().repeat()
                whole = grain.MapDataset.range(2**40)
                groups.append(
                    whole.map(partial(images, shuffled, source.crop_px, stage.batch_size))
                )
                weights.append(weight / num_groups)
        mixed = groups[0] if len(groups) == 1 else grain.MapDataset.mix(groups, shares(weights))
        return mixed.__getitem__

    return by_stage(curriculum, start_step, stage_batches, num_workers)


def _image_group(
    records: Any,
    crop_px: int,
    batch_size: int,
    group_step: int,
    *,
    seed: int,
    stage_index: int,
    rows: Sequence[int],
) -> Batch:
    """Batch number `group_step` of one group of equally large images."""
    images = []
    for row in rows:
        position = group_step * batch_size + row
        image = unpack_image(records[position])
        images.append(_crop(image, crop_px, (seed, stage_index, position)) if crop_px else image)
    return {"pixels": np.stack(images)}


def _crop(image: np.ndarray, crop_px: int, position: tuple[int, ...]) -> np.ndarray:
    """A random square crop whose corner lies on the grid of CROP_STEP_PX."""
    height, width = image.shape[:2]
    if min(height, width) < crop_px:
        raise ValueError(f"crop_px {crop_px} is larger than an image of {width}x{height} px")
    rng = np.random.default_rng((*position, 0xC1))
    y = int(rng.integers((height - crop_px) // CROP_STEP_PX + 1)) * CROP_STEP_PX
    x = int(rng.integers((width - crop_px) // CROP_STEP_PX + 1)) * CROP_STEP_PX
    return image[y : y + crop_px, x : x + crop_px]
