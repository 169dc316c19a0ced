"""The VQGAN's batches: equally large images, the same for any start and any number of hosts."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from lumina_jax.data.images import pack_image
from lumina_jax.data.pixels import PixelSource, pixel_batches
from lumina_jax.data.stepwise import Rows
from lumina_jax.experiment import Stage
from lumina_jax.train.curriculum import Curriculum


def images_of(count: int, *sizes: tuple[int, int]) -> list[bytes]:
    """Every pixel of image i is i."""
    made = []
    for index in range(count):
        width, height = sizes[index % len(sizes)]
        made.append(pack_image(np.full((height, width, 3), index, np.uint8)))
    return made


PICTURES = {
    "wide": PixelSource(images_of(12, (48, 32), (64, 16)), 2),
    "crops": PixelSource(images_of(8, (64, 64), (96, 48)), 2, crop_px=32),
}
PICTURE_STAGES = (
    Stage(6, 4, 0.1, (("wide", 1.0),)),
    Stage(5, 4, 0.1, (("crops", 0.5), ("wide", 0.5))),
)


def test_images_of_a_batch_have_one_size():
    found = list(pixel_batches(PICTURES, Curriculum(PICTURE_STAGES), 0))
    shapes = [batch["pixels"].shape for batch in found]
    assert set(shapes[:6]) == {(4, 32, 48, 3), (4, 16, 64, 3)}
    assert set(shapes[6:]) >= {(4, 32, 32, 3)} and len(set(shapes[6:])) > 1
    shown = [batch["pixels"][:, 0, 0, 0] for batch in found[:6]]
    for shape, indices in zip(shapes, shown, strict=False):
        assert set(indices % 2) == {0 if shape[1] == 32 else 1}
    assert sorted(np.concatenate(shown)) == sorted(list(range(12)) * 2)


def test_pixel_batches_resume_and_share_out():
    curriculum = Curriculum(PICTURE_STAGES)
    whole = list(pixel_batches(PICTURES, curriculum, 0))
    resumed = list(pixel_batches(PICTURES, curriculum, 0, start_step=5))
    assert len(resumed) == 6
    parts = [list(pixel_batches(PICTURES, curriculum, 0, rows=Rows((i,), 2))) for i in range(2)]
    joined = [np.concatenate([a["pixels"], b["pixels"]]) for a, b in zip(*parts, strict=True)]
    for found, batch in zip(
        [*joined, *(b["pixels"] for b in resumed)], [*whole, *whole[5:]], strict=True
    ):
        np.testing.assert_array_equal(found, batch["pixels"])


def test_crops_start_on_the_scenes_grid():
    ramp = np.zeros((64, 96, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(64)[:, None], np.arange(96)
    source = PixelSource([pack_image(ramp)], 1, crop_px=32)
    stages = Curriculum((replace(PICTURE_STAGES[0], steps=12, mixture=(("ramp", 1.0),)),))
    found = [batch["pixels"] for batch in islice(pixel_batches({"ramp": source}, stages, 0), 12)]
    corners = np.concatenate(found)[:, 0, 0, :2]
    assert (corners % 8 == 0).all() and len(np.unique(corners, axis=0)) > 10
    assert corners[:, 0].max() == 32 and corners[:, 1].max() == 64


def test_a_crop_larger_than_the_image_is_refused():
    source = {"wide": PICTURES["wide"]._replace(crop_px=96)}
    with pytest.raises(ValueError, match="crop_px 96 is larger than an image of (48x32|64x16) px"):
        next(pixel_batches(source, Curriculum(PICTURE_STAGES[:1]), 0))
