"""Drawn images: a function of source and index, kept in shards that know what they depend on."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lumina_jax.config import GridConfig
from lumina_jax.data import images
from lumina_jax.data.images import (
    digest_of_code,
    draw_image,
    ensure_images,
    pack_image,
    record_rng,
    source_digest,
    source_sizes,
    unpack_image,
)
from lumina_jax.data.shards import open_shards
from lumina_jax.data_config import ScenesSource

GRID = GridConfig(patch_px=16, unit_px=16)
SOURCE = ScenesSource("pictures", 64, 6, sizes=((64, 64), (96, 48)), answers=0.5)


def test_packed_image_round_trip():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    np.testing.assert_array_equal(unpack_image(pack_image(image)), image)


def test_sizes_are_listed_or_every_crop_up_to_the_ratio():
    assert source_sizes(SOURCE, GRID) == [(64, 64), (96, 48)]
    sizes = source_sizes(replace(SOURCE, sizes=(), max_ratio=2.0), GRID)
    assert (64, 64) in sizes and (80, 48) in sizes
    assert all(max(size) <= 2 * min(size) for size in sizes)


def test_image_is_a_function_of_seed_and_index():
    first, again = draw_image(SOURCE, 3, (64, 64)), draw_image(SOURCE, 3, (64, 64))
    np.testing.assert_array_equal(first, again)
    assert (draw_image(SOURCE, 4, (64, 64)) != first).any()
    assert (draw_image(replace(SOURCE, seed=1), 3, (64, 64)) != first).any()


def test_answers_are_drawn_in_their_share():
    plain, mixed = replace(SOURCE, answers=0.0), replace(SOURCE, answers=0.5)
    differ = [
        (draw_image(plain, index, (64, 64)) != draw_image(mixed, index, (64, 64))).any()
        for index in range(12)
    ]
    assert 1 <= sum(differ) <= 11


def test_record_rngs_are_independent_of_each_other():
    draws = {
        record_rng(SOURCE, index, purpose).integers(2**60)
        for index in (0, 1)
        for purpose in ("scene", "text")
    }
    assert len(draws) == 4


def test_folder_holds_every_image_once_and_is_reused(tmp_path: Path, monkeypatch):
    folder = ensure_images(SOURCE, GRID, tmp_path)
    records = open_shards(folder)
    for index in range(6):
        size = SOURCE.sizes[index % 2]
        np.testing.assert_array_equal(unpack_image(records[index]), draw_image(SOURCE, index, size))
    monkeypatch.setattr(images, "write_shard", None)
    assert ensure_images(SOURCE, GRID, tmp_path) == folder


def test_code_that_makes_the_same_goes_by_the_older_digest(monkeypatch):
    pattern, sizes = "data/images.py", source_sizes(SOURCE, GRID)
    before, digest = digest_of_code.__wrapped__(pattern), source_digest(SOURCE, sizes)
    monkeypatch.setattr("lumina_jax.data.images.SAME_CODE", {before: "older code"})
    assert digest_of_code.__wrapped__(pattern) == "older code"
    assert digest_of_code.__wrapped__("data/shards.py") not in (before, "older code")
    assert source_digest(SOURCE, sizes) == digest  # cached in this process


def test_digest_follows_what_the_images_depend_on():
    sizes = source_sizes(SOURCE, GRID)
    digest = source_digest(SOURCE, sizes)
    assert source_digest(replace(SOURCE, name="other", crop_px=32), sizes) == digest
    for changed in (replace(SOURCE, seed=1), replace(SOURCE, answers=0.1)):
        assert source_digest(changed, sizes) != digest
    assert source_digest(SOURCE, sizes[:1]) != digest
    assert source_digest(SOURCE, sizes, "other code book") != digest
