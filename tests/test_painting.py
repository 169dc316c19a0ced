"""Given codes, negative prompts and the best of several, through the face."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lumina_jax.config import SampleConfig
from lumina_jax.image_files import read_metadata
from lumina_jax.painting import candidate_seeds, override, spread_asks
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import MAX_SEED, network_of, prepare
from lumina_jax.sampling.likelihood import likelihoods
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.grid import FREE
from lumina_jax.unirep.image_tokens import parse_image
from lumina_jax.unirep.tasks import text_to_image

FEW = {"guidance": 2.0, "image_top_k": 30}


def picture_of(width_px: int, height_px: int) -> Image.Image:
    """Random colours, 8 px squares."""
    squares = np.random.default_rng(0).integers(0, 256, (height_px // 8, width_px // 8, 3))
    return Image.fromarray(np.kron(squares, np.ones((8, 8, 1))).astype(np.uint8))


def codes_of(lumina, image) -> np.ndarray:
    """The codes of a painted image."""
    return parse_image(image.ids, lumina.tokenizer.vocab, lumina.config.grid)


def test_outpainted_image_keeps_the_codes_of_its_upper_part(small_lumina, tmp_path) -> None:
    upper = picture_of(48, 24)
    image = small_lumina.outpaint(upper, (48, 32), "a red star", seed=3, **FEW)
    codes = codes_of(small_lumina, image)
    assert image.size == (48, 32)
    np.testing.assert_array_equal(codes[:3], small_lumina._codes(upper))
    given = np.vstack([codes[:3], np.full((1, 6), FREE)])
    same = small_lumina.generate("a red star", (48, 32), 3, given=given, **FEW)
    np.testing.assert_array_equal(same.ids, image.ids)
    assert read_metadata(image.save(tmp_path / "a.png"))["given"] == "18 of 24 codes"


def test_what_is_continued_changes_what_follows(small_lumina) -> None:
    upper = picture_of(48, 16)
    turned = upper.transpose(Image.Transpose.ROTATE_180)
    images = [small_lumina.outpaint(u, (48, 32), "a star", **FEW) for u in (upper, turned)]
    below = [codes_of(small_lumina, image)[2:] for image in images]
    assert not np.array_equal(*below)


def test_inpainted_image_keeps_every_code_that_the_mask_does_not_touch(small_lumina) -> None:
    picture = picture_of(48, 32)
    mask = np.zeros((32, 48), bool)
    mask[7:9, 16:33] = True  # touches two rows of codes, and columns 2 to 4 of them
    image, other = small_lumina.inpaint(picture, mask, "a red star", seed=[1, 2], **FEW)
    codes, wanted = codes_of(small_lumina, image), small_lumina._codes(picture)
    touched = np.zeros((4, 6), bool)
    touched[0:2, 2:5] = True
    np.testing.assert_array_equal(codes[~touched], wanted[~touched])
    assert not np.array_equal(codes, codes_of(small_lumina, other))
    as_picture = Image.fromarray(np.where(mask, 255, 100).astype(np.uint8))
    again = small_lumina.inpaint(picture, as_picture, "a red star", seed=1, **FEW)
    np.testing.assert_array_equal(again.ids, image.ids)


def test_negative_prompt_changes_the_image_and_is_told(small_lumina) -> None:
    plain = small_lumina.generate("a red star", (48, 32), **FEW)
    other = small_lumina.generate("a red star", (48, 32), negative_prompt="a blue ring", **FEW)
    assert not np.array_equal(plain.ids, other.ids)
    assert other.metadata["negative_prompt"] == "a blue ring"
    assert "negative_prompt" not in plain.metadata


def test_negative_prompt_like_the_prompt_leaves_no_guidance(small_lumina) -> None:
    plain = small_lumina.generate("a red star", (48, 32), guidance=1.0, image_top_k=1)
    same = {"negative_prompt": "a red star", "guidance": 3.0, "image_top_k": 1}
    found = small_lumina.generate("a red star", (48, 32), **same)
    np.testing.assert_array_equal(found.ids, plain.ids)


def test_best_of_one_is_the_plain_image(small_lumina) -> None:
    plain = small_lumina.generate("a red star", (48, 32), seed=4, **FEW)
    one = small_lumina.generate("a red star", (48, 32), seed=4, best_of=1, **FEW)
    np.testing.assert_array_equal(one.ids, plain.ids)
    assert one.metadata == plain.metadata


def test_best_of_keeps_the_image_of_the_highest_score(small_lumina) -> None:
    size, texts, seeds = (48, 32), ["a red star", "a small circle, please."], [4, 5]
    kept = small_lumina.generate(texts, size, seeds, best_of=3, **FEW)
    for text, seed, image in zip(texts, seeds, kept, strict=True):
        candidates = candidate_seeds(seed, 3)
        drawn = small_lumina.generate(text, size, candidates, **FEW)
        ids = prompt_ids(text_to_image(*size, text), small_lumina.tokenizer)
        jobs = prepare(small_lumina.loaded, [Request(ids, *size)] * 3)
        scores = likelihoods(network_of(small_lumina.loaded), jobs, [d.ids for d in drawn])
        best = int(np.argmax(scores))
        np.testing.assert_array_equal(image.ids, drawn[best].ids)
        assert image.seed == candidates[best]
        assert image.metadata["best_of"] == f"3 from seed {seed}"
        assert float(image.metadata["log_likelihood"]) == pytest.approx(scores[best], abs=1e-4)


def test_candidates_are_the_seed_and_others_that_more_of_them_keep() -> None:
    assert candidate_seeds(7, 1) == [7]
    assert candidate_seeds(7, 6)[:4] == candidate_seeds(7, 4)
    made = [seed for first in range(200) for seed in candidate_seeds(first, 8)]
    assert len(set(made)) == len(made)
    assert all(0 <= seed <= MAX_SEED for seed in [*made, *candidate_seeds(MAX_SEED, 8)])


def test_named_settings_replace_those_of_the_model() -> None:
    own = SampleConfig(guidance=3.0, guidance_schedule=(4.0, 2.0))
    assert override(own, {"guidance": None, "window": 4}) == replace(own, window=4)
    assert override(own, {"guidance": 2.0}).guidance_schedule == ()
    both = override(own, {"guidance": 2.0, "guidance_schedule": [5, 1]})
    assert both.guidance_schedule == (5.0, 1.0)
    with pytest.raises(ValueError, match="unknown setting 'guidence'.*did you mean 'guidance'"):
        override(own, {"guidence": 3.0})


def test_given_codes_and_negative_prompts_may_be_one_each() -> None:
    given = np.zeros((2, 2), int)
    asks, is_list = spread_asks("a", (16, 16), 0, ["b", None], [None, given])
    assert is_list and [ask.negative_prompt for ask in asks] == ["b", None]
    assert asks[0].given is None and asks[1].given is given


PICTURE, MASK = picture_of(48, 32), np.ones((32, 48), bool)
BAD = {
    "schedule": ({"guidance_schedule": [3.0, float("nan")]}, "guidance_schedule .*want finite"),
    "negative schedule": ({"guidance_schedule": [3.0, -1.0]}, "guidance_schedule .*want finite"),
    "infinite guidance": ({"guidance": float("inf")}, "guidance inf: want a finite number"),
    "negative guidance": ({"guidance": -1.0}, "guidance -1.0: want a finite number >= 0"),
    "top-k 0": ({"image_top_k": 0}, "top-k must be at least 1"),
    "min-p 1": ({"image_min_p": 1.0}, "image_min_p 1.0: want >= 0, below 1"),
    "min-p nan": ({"image_min_p": float("nan")}, "image_min_p nan: want >= 0"),
    "best of none": ({"best_of": 0}, "best_of 0: want at least 1"),
    "seed": ({"seed": -1, "best_of": 2}, "seed -1: want 0 to"),
    "original's rules": (
        {"best_of": 2, "grammar": "original"},
        "best_of: grammar 'original' has no likelihood",
    ),
    "original's rows": (
        {"guidance_schedule": (2.0, 3.0), "grammar": "original"},
        "guidance_schedule: grammar 'original'",
    ),
    "empty negative prompt": ({"negative_prompt": " "}, "empty negative prompt"),
    "long negative prompt": ({"negative_prompt": "a star. " * 200}, "negative prompt .* 400"),
    "two lists": ({"seed": [1, 2], "negative_prompt": ["a"] * 3}, "2 seeds and 3 negative prompts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_controls_are_refused_in_one_line(small_lumina, case: str) -> None:
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        small_lumina.generate("a star", (48, 32), **arguments)
    assert "\n" not in str(caught.value)


BAD_PICTURES = {
    "wide upper part": (
        lambda model: model.outpaint(PICTURE, (32, 48), "a"),
        "upper part of 4 rows by 6 codes: want 4 codes a row and fewer than 6 rows",
    ),
    "nothing below": (
        lambda model: model.outpaint(PICTURE, (48, 32), "a"),
        "want 6 codes a row and fewer than 4 rows",
    ),
    "odd upper part": (
        lambda model: model.outpaint(PICTURE.resize((48, 20)), (48, 32), "a"),
        "picture of 48x20 px: want multiples of 8 px",
    ),
    "odd size": (
        lambda model: model.outpaint(PICTURE, (48, 50), "a"),
        "size 48x50: .* multiples of 16 px",
    ),
    "odd picture": (
        lambda model: model.inpaint(PICTURE.resize((48, 40)), MASK, "a"),
        "size 48x40: .* multiples of 16 px",
    ),
    "other mask": (
        lambda model: model.inpaint(PICTURE, MASK.T, "a"),
        "mask of 32x48 px for a picture of 48x32 px: want the same size",
    ),
    "black mask": (
        lambda model: model.inpaint(PICTURE, ~MASK, "a"),
        "mask: nothing of it is white",
    ),
    "no file": (lambda model: model.inpaint("none.png", MASK, "a"), "none.png: no such image file"),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_pictures_that_do_not_fit_are_refused_in_one_line(small_lumina, case: str) -> None:
    paint, message = BAD_PICTURES[case]
    with pytest.raises((ValueError, OSError), match=message) as caught:
        paint(small_lumina)
    assert "\n" not in str(caught.value)
