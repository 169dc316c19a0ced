"""Crops equal the original's; sizes are checked; the table of forced ids is the layout."""

import math

import numpy as np
import pytest

from lumina_jax.config import GridConfig
from lumina_jax.unirep.grid import (
    FREE,
    check_size,
    choose_crop,
    crop_sizes,
    forced_ids,
    forced_ids_codes_alone,
    image_table,
    image_token_count,
    latent_shape,
)

RELEASE = GridConfig()
SMALL = GridConfig(unit_px=16)


def test_crop_sizes_equal_the_original(golden):
    for count, sizes in golden.crops.items():
        assert crop_sizes(32 * math.isqrt(count), RELEASE) == sizes


def test_crop_sizes_scale_with_the_unit():
    halves = [(w // 2, h // 2) for w, h in crop_sizes(512, RELEASE)]
    assert crop_sizes(256, SMALL) == halves


def test_crops_without_a_size_token_are_left_out():
    assert max(max(size) for size in crop_sizes(512, GridConfig(max_units=20))) == 640


@pytest.mark.parametrize("target_px", [0, 31, 100, -32])
def test_target_that_is_no_multiple_of_the_unit_is_refused(target_px):
    with pytest.raises(ValueError, match="positive multiple of 32"):
        crop_sizes(target_px, RELEASE)


@pytest.mark.parametrize(
    ("size", "target_px", "crop"),
    [
        ((1024, 512), 512, (704, 352)),
        ((1920, 1080), 512, (672, 384)),
        ((640, 480), 512, (576, 448)),
        ((1024, 512), 768, (1056, 544)),
        ((640, 480), 1024, (1152, 864)),
        ((800, 100), 512, (1024, 256)),  # a panorama is clipped to the widest crop
    ],
)
def test_choose_crop_equals_the_original(size, target_px, crop):
    assert choose_crop(size, crop_sizes(target_px, RELEASE)) == crop


def test_choose_crop_gives_ties_to_the_wider():
    assert choose_crop((64, 64), [(32, 64), (64, 32)]) == (64, 32)


@pytest.mark.parametrize(
    ("side", "count"), [(256, 276), (384, 604), (512, 1060), (768, 2356), (1024, 4164)]
)
def test_square_token_counts_equal_the_published(side, count):
    assert image_token_count(side, side, RELEASE) == count


@pytest.mark.parametrize("grid", [RELEASE, SMALL])
@pytest.mark.parametrize("layout", ["uni_rep", "chameleon"])
def test_table_length_equals_the_token_count(golden_tokenizer, grid, layout):
    table = image_table(3, 5, golden_tokenizer.vocab, grid, layout)
    width_px, height_px = 5 * grid.unit_px, 3 * grid.unit_px
    assert len(table) == image_token_count(width_px, height_px, grid, layout)
    assert (table == FREE).sum() == np.prod(latent_shape(width_px, height_px, grid))
    assert table.dtype == np.int32


def test_forced_ids_of_a_wide_image_put_height_first(golden_tokenizer):
    free = [FREE] * 4
    table = forced_ids(1, 2, golden_tokenizer.vocab, RELEASE)
    assert table.tolist() == [8197, 8805, 8806, *free, 8803, *free, 8803, 8196]


def test_forced_ids_of_chameleon_hold_codes_alone(golden_tokenizer):
    table = forced_ids_codes_alone(1, 2, golden_tokenizer.vocab, RELEASE)
    assert table.tolist() == [8197, *[FREE] * 8, 8196]


def test_impossible_tables_are_refused(small_tokenizer):
    with pytest.raises(ValueError, match="at least 1 by 1"):
        forced_ids(0, 2, small_tokenizer.vocab, SMALL)
    with pytest.raises(ValueError, match="no size token for 17"):
        forced_ids(17, 2, small_tokenizer.vocab, SMALL)
    with pytest.raises(ValueError, match="image layout 'x'"):
        image_table(1, 1, small_tokenizer.vocab, SMALL, "x")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((100, 64), "multiples of 32 px; the nearest is 96x64"),
        ((0, 64), "must be positive"),
        ((32, -32), "must be positive"),
        ((512, 96), "at most 4:1"),
        ((2080, 2048), "no side may be longer than 2048 px"),
        ((512, 512), "needs 1060 tokens, this model has room for 1000"),
    ],
)
def test_sizes_that_cannot_be_painted_are_one_clear_line(size, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_size(*size, RELEASE, max_tokens=1000)
    assert "\n" not in str(caught.value)


def test_every_allowed_crop_passes_the_check():
    for size in crop_sizes(1024, RELEASE):
        check_size(*size, RELEASE, max_tokens=4228)
