"""Image sentences and their parser are inverses and equal the original; crops are centred; transparency is white."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from lumina_jax.config import GridConfig
from lumina_jax.unirep.grid import forced_ids
from lumina_jax.unirep.image_tokens import (
    find_images,
    fit_image,
    image_sentence,
    images_alone,
    parse_image,
    resize_and_crop,
    whiten,
)

GRID = GridConfig()
SMALL = GridConfig(unit_px=16)
KINDS = ("wide", "square", "rgba")


@pytest.mark.parametrize("kind", KINDS)
def test_parsed_and_rewritten_ids_equal_the_original(golden, golden_tokenizer, kind):
    ids = golden[f"tok_{kind}"]
    codes = parse_image(ids, golden_tokenizer.vocab, GRID)
    assert np.array_equal(image_sentence(codes, golden_tokenizer.vocab, GRID), ids)


@pytest.mark.parametrize("layout", ["uni_rep", "chameleon", "plain"])
def test_parse_is_the_inverse_of_the_sentence(small_tokenizer, layout):
    codes = np.random.default_rng(0).integers(0, 64, (3, 5))
    ids = image_sentence(codes, small_tokenizer.vocab, SMALL, layout)
    assert np.array_equal(parse_image(ids, small_tokenizer.vocab, SMALL, layout, (3, 5)), codes)


def test_chameleon_assumes_a_square(small_tokenizer):
    codes = np.arange(16).reshape(4, 4)
    ids = image_sentence(codes, small_tokenizer.vocab, SMALL, "chameleon")
    assert np.array_equal(parse_image(ids, small_tokenizer.vocab, SMALL, "chameleon"), codes)
    with pytest.raises(ValueError, match="15 codes: not 3 rows by 3 columns"):
        parse_image(ids[1:], small_tokenizer.vocab, SMALL, "chameleon")


def test_plain_image_is_read_only_with_its_shape(small_tokenizer):
    ids = image_sentence(np.arange(16).reshape(4, 4), small_tokenizer.vocab, SMALL, "plain")
    with pytest.raises(ValueError, match="18 tokens in the layout 'plain'.*say it"):
        parse_image(ids, small_tokenizer.vocab, SMALL, "plain")
    with pytest.raises(ValueError, match="plain image of 16 codes: not 3 rows by 5 columns"):
        parse_image(ids, small_tokenizer.vocab, SMALL, "plain", (3, 5))


def test_sentence_writes_rows_in_order(small_tokenizer):
    vocab = small_tokenizer.vocab
    ids = image_sentence(np.array([[1, 2, 3], [4, 5, 6]]), vocab, SMALL)
    size, end = [vocab.size_id(2), vocab.size_id(3)], vocab.line_end_id
    assert ids.tolist() == [
        vocab.image_start_id,
        *size,
        5,
        6,
        7,
        end,
        8,
        9,
        10,
        end,
        vocab.image_end_id,
    ]


def test_parser_holds_the_table_of_forced_ids(small_tokenizer):
    vocab = small_tokenizer.vocab
    codes = np.arange(15).reshape(3, 5)
    ids, table = image_sentence(codes, vocab, SMALL), forced_ids(3, 5, vocab, SMALL)
    for at in range(len(ids)):
        broken = ids.copy()
        broken[at] = vocab.pad_id
        with pytest.raises(ValueError, match=f"token {at} is id 1"):
            parse_image(broken, vocab, SMALL)
    assert np.array_equal(ids[table >= 0], table[table >= 0])


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 9, 21])
def test_a_truncated_image_is_refused(small_tokenizer, cut):
    ids = image_sentence(np.arange(15).reshape(3, 5), small_tokenizer.vocab, SMALL)
    with pytest.raises(ValueError, match="tokens, want|want start, height and width"):
        parse_image(ids[:cut], small_tokenizer.vocab, SMALL)


def test_a_huge_size_token_is_refused_before_its_table_is_built(golden_tokenizer):
    with pytest.raises(ValueError, match="want a height token 8805 … 8868"):
        parse_image(np.array([8197, 16000, 16000, 8196]), golden_tokenizer.vocab, GRID)


@pytest.mark.parametrize(
    "codes",
    [np.full((2, 2), 64), np.full((2, 2), -1), np.zeros((0, 2), int), np.zeros(4, int)],
)
def test_codes_that_cannot_be_said_are_refused(small_tokenizer, codes):
    with pytest.raises(ValueError, match="codes"):
        image_sentence(codes, small_tokenizer.vocab, SMALL)


def test_codes_that_are_no_whole_units_are_refused(golden_tokenizer):
    with pytest.raises(ValueError, match="multiples of 2"):
        image_sentence(np.zeros((2, 3), int), golden_tokenizer.vocab, GRID)


def test_find_images_gives_every_complete_sentence(golden, golden_tokenizer):
    spans = find_images(golden["conv_ids"], golden_tokenizer.vocab)
    found = [golden["conv_ids"][start:stop].tolist() for start, stop in spans]
    assert found == [golden["tok_wide"].tolist(), golden["tok_square"].tolist()]


def test_find_images_passes_over_truncated_ones(golden_tokenizer):
    vocab = golden_tokenizer.vocab
    start, end = vocab.image_start_id, vocab.image_end_id
    assert find_images(np.array([end, start, 5, start, 6, end, 7, start]), vocab) == [(3, 6)]


def test_images_alone_drops_the_text_around_whole_sentences(golden, golden_tokenizer):
    vocab = golden_tokenizer.vocab
    wide, square = golden["tok_wide"].tolist(), golden["tok_square"].tolist()
    size, line = vocab.size_id(2), vocab.line_end_id
    prompt = np.array([0, 9000, *wide, size, 9001, *square, line, 9002, vocab.sep_id])
    assert images_alone(prompt, vocab).tolist() == [0, *wide, *square]


def test_images_alone_keeps_the_codes_of_a_truncated_image(golden_tokenizer):
    vocab = golden_tokenizer.vocab
    start, size = vocab.image_start_id, vocab.size_id(2)
    assert images_alone(np.array([0, start, size, 5, 6, 9000]), vocab).tolist() == [0, start, 5, 6]


@pytest.mark.parametrize("size", [(101, 50), (50, 101), (64, 64), (20, 33)])
def test_chameleon_scales_the_short_side_and_cuts_the_centre(size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))
    scale = 32 / min(size)
    whole = image.resize((round(scale * size[0]), round(scale * size[1])), Image.Resampling.LANCZOS)
    left, upper = (whole.width - 32) // 2, (whole.height - 32) // 2
    wanted = np.asarray(whole)[upper : upper + 32, left : left + 32]
    np.testing.assert_array_equal(fit_image(image, 32, GRID, layout="chameleon"), wanted)


def test_chameleon_whitens_before_it_scales():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (48, 48, 4), np.uint8), "RGBA")
    pixels = fit_image(image, 32, GRID, layout="chameleon")
    np.testing.assert_array_equal(pixels, fit_image(whiten(image), 32, GRID, layout="chameleon"))


@pytest.mark.parametrize("kind", KINDS)
def test_fitted_images_have_the_size_their_ids_name(golden, golden_tokenizer, kind):
    pixels = fit_image(golden.image(kind), 96, GRID)
    rows, columns = parse_image(golden[f"tok_{kind}"], golden_tokenizer.vocab, GRID).shape
    assert pixels.shape == (16 * rows, 16 * columns, 3)
    assert pixels.dtype == np.uint8


def test_crop_is_centred_without_a_generator():
    ramp = np.tile(np.arange(96, dtype=np.uint8), (32, 1))
    image = resize_and_crop(Image.fromarray(ramp), (64, 32))
    assert np.array_equal(np.asarray(image), ramp[:, 16:80])


def test_crop_offset_is_random_with_a_generator():
    image = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8), (32, 1)))
    rng = np.random.default_rng(0)
    offsets = {np.asarray(resize_and_crop(image, (64, 32), rng))[0, 0] for _ in range(200)}
    assert offsets == set(range(33))


def test_halving_averages_blocks_before_the_last_resize():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.unique(np.asarray(resize_and_crop(Image.fromarray(checks), (32, 32)))).tolist() == [
        128
    ]


def test_whiten_blends_on_white_and_truncates():
    pixels = np.array([[[0, 100, 255, 127], [10, 20, 30, 255]]], np.uint8)
    blended = np.asarray(whiten(Image.fromarray(pixels, "RGBA")))
    assert blended.tolist() == [[[128, 177, 255], [10, 20, 30]]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK"])
def test_every_usual_mode_is_read_as_rgb(mode):
    image = Image.new("RGB", (64, 64), (255, 255, 255)).convert(mode)
    assert (fit_image(image, 64, GRID) == 255).all()
    assert (fit_image(image, 64, GRID, layout="chameleon") == 255).all()


def test_sixteen_bit_images_are_scaled_not_clipped():
    image = Image.fromarray(np.full((64, 64), 0x8012, np.uint16))
    assert (fit_image(image, 64, GRID) == 0x80).all()
    assert (fit_image(image, 64, GRID, layout="chameleon") == 0x80).all()


def reread(kind: str, image: Image.Image, **options) -> Image.Image:
    """An image as PIL opens it from a file of that kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return Image.open(file)


def test_a_pgm_of_sixteen_bits_keeps_its_greys():
    ramp = np.linspace(0, 65535, 64 * 64).astype(">u2").reshape(64, 64)
    image = Image.open(io.BytesIO(b"P5 64 64 65535\n" + ramp.tobytes()))
    wanted = np.repeat((ramp >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    for fitted in (
        whiten(image),
        fit_image(image, 64, GRID),
        fit_image(image, 64, GRID, None, "chameleon"),
    ):
        np.testing.assert_array_equal(fitted, wanted)


@pytest.mark.parametrize("level", [np.int32(-1), np.int32(65536), np.float32(0.5)])
def test_levels_of_no_known_white_are_refused(level):
    image = reread("TIFF", Image.fromarray(np.full((64, 64), level)))
    for layout in ("uni_rep", "chameleon"):
        with pytest.raises(
            ValueError, match="mode [IF], levels .* want whole levels 0 to 65535"
        ) as caught:
            fit_image(image, 64, GRID, layout=layout)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_colour_that_stands_for_transparency_becomes_white(mode):
    if mode == "I;16":
        image, key = Image.fromarray(np.full((64, 64), 300, np.uint16)), 300
    else:
        image = Image.new("RGB", (64, 64)).convert(mode)
        key = image.getpixel((0, 0))
    image = reread("PNG", image, transparency=key)
    for fitted in (
        whiten(image),
        fit_image(image, 64, GRID),
        fit_image(image, 64, GRID, None, "chameleon"),
    ):
        assert (np.asarray(fitted) == 255).all()


def test_a_palette_with_transparency_becomes_white():
    image = Image.new("RGBA", (64, 64)).quantize()
    assert (fit_image(image, 64, GRID) == 255).all()


def test_whiten_in_blocks_of_rows_blends_every_pair_of_levels_in_little_memory():
    levels = np.arange(256, dtype=np.uint8)
    pairs = np.stack(
        np.broadcast_arrays(levels[:, None], levels, levels[::-1], levels[:, None]), -1
    )
    pixels = np.concatenate(
        [pairs, np.random.default_rng(0).integers(0, 256, (1701, 256, 4), np.uint8)]
    )
    alpha = pixels[:, :, 3:] / 255.0
    wanted = ((1 - alpha) * 255 + alpha * pixels[:, :, :3]).astype(np.uint8)
    image = Image.fromarray(pixels)
    tracemalloc.start()
    found = whiten(image)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found, wanted)
    assert most < pixels.nbytes  # blended at once it is 16 times that
