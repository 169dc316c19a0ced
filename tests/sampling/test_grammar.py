"""The plan of an image: forced tokens, free codes, and the sizes that are refused."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.sampling import grammar
from lumina_jax.sampling.grammar import (
    UntrainedSizeWarning,
    check_room,
    plan_image,
    warn_untrained,
)
from lumina_jax.unirep.grid import FREE, crop_sizes
from lumina_jax.unirep.image_tokens import image_sentence, parse_image


def test_plan_names_runs_of_codes_between_line_ends(small_lumina) -> None:
    vocab = small_lumina.tokenizer.vocab
    plan = plan_image(32, 16, small_lumina.config, vocab)
    lead = [vocab.image_start_id, vocab.size_id(1), vocab.size_id(2)]
    assert plan.shape == (2, 4)
    assert plan.runs == ((3, 7), (8, 12))
    assert plan.lead.tolist() == lead
    assert plan.unprompted == tuple(lead)
    assert plan.sentence[7] == plan.line_end_id == vocab.line_end_id


def test_plan_in_chameleons_layout_is_one_run_after_two_tokens(small_lumina) -> None:
    config = replace(small_lumina.config, image_layout="chameleon")
    vocab = small_lumina.tokenizer.vocab
    plan = plan_image(32, 32, config, vocab)
    assert plan.runs == ((1, 17),)
    assert plan.unprompted == (vocab.bos_id, vocab.image_start_id)


def test_filled_plan_parses_to_its_codes_at_every_size(small_lumina) -> None:
    config, vocab = small_lumina.config, small_lumina.tokenizer.vocab
    rng = np.random.default_rng(0)
    for width_px, height_px in crop_sizes(128, config.grid):
        plan = plan_image(width_px, height_px, config, vocab)
        codes = rng.integers(0, vocab.num_codes, plan.shape)
        ids = plan.fill(codes + vocab.first_code_id)
        np.testing.assert_array_equal(ids, image_sentence(codes, vocab, config.grid))
        np.testing.assert_array_equal(parse_image(ids, vocab, config.grid), codes)


@pytest.mark.parametrize(
    ("size", "num_prompt_tokens", "message"),
    [
        ((100, 96), 5, r"size 100x96: .* multiples of 16 px; the nearest is 96x96"),
        ((0, 96), 5, "must be positive"),
        ((256, 16), 5, "16:1"),
        ((128, 128), 200, r"needs 276 tokens, .* \(the prompt takes 200 of 400\)"),
        ((16, 16), 400, "prompt of 400 tokens: this model reads 400 tokens"),
    ],
)
def test_check_room_refuses(small_lumina, size, num_prompt_tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_room(*size, num_prompt_tokens, small_lumina.config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "target_px", "message"),
    [
        ((144, 128), 128, r"size 144x128: 18432 px, trained on at most 16384 px \(128x128\)"),
        ((128, 32), 48, r"size 128x32: 4096 px, trained on at most 2304 px \(48x48\)"),
    ],
)
def test_size_that_no_stage_trained_is_warned_of(small_lumina, size, target_px, message) -> None:
    config = replace(small_lumina.config, target_px=target_px)
    check_room(*size, 5, config)
    with pytest.warns(UntrainedSizeWarning, match=message) as seen:
        warn_untrained(*size, config)
    assert len(seen) == 1 and "\n" not in str(seen[0].message)


def test_allowed_crops_of_all_areas_are_not_warned_of(small_lumina, recwarn) -> None:
    for area_px in (16, 64, 128):
        for size in crop_sizes(area_px, small_lumina.config.grid):
            warn_untrained(*size, small_lumina.config)
    assert len(recwarn) == 0


def test_crop_of_no_area_is_warned_of(small_lumina, monkeypatch) -> None:
    monkeypatch.setattr(grammar, "possible_sizes", lambda config: ((32, 32), (48, 48)))
    with pytest.warns(UntrainedSizeWarning, match="size 48x32: not an allowed crop of any area"):
        warn_untrained(48, 32, small_lumina.config)


def given_of(shape: tuple[int, int], *free: slice) -> np.ndarray:
    """Codes 0, 1, 2 … of an image, FREE in the flat slices."""
    given = np.arange(shape[0] * shape[1])
    for each in free:
        given[each] = FREE
    return given.reshape(shape)


@pytest.mark.parametrize(
    ("free", "lead", "free_runs", "span", "scattered"),
    [
        (slice(4, 8), 8, ((8, 12),), (8, 12), False),  # the second row
        (slice(2, 8), 5, ((5, 7), (8, 12)), (5, 12), False),  # from the middle of the first
        (slice(1, 6), 4, ((4, 7), (8, 12)), (4, 10), True),
        (slice(7, 8), 11, ((11, 12),), (11, 12), False),
    ],
)
def test_plan_of_given_codes(small_lumina, free, lead, free_runs, span, scattered: bool) -> None:
    vocab = small_lumina.tokenizer.vocab
    given = given_of((2, 4), free)
    plan = plan_image(32, 16, small_lumina.config, vocab, given)
    plain = plan_image(32, 16, small_lumina.config, vocab)
    assert (len(plan.lead), plan.free_runs, plan.span) == (lead, free_runs, span)
    assert (plan.scattered, plan.runs, plan.stride) == (scattered, plain.runs, plain.stride)
    assert plan.unprompted == tuple(plan.lead)
    whole = plan.fill(np.arange(8).reshape(2, 4) + vocab.first_code_id)
    np.testing.assert_array_equal(
        parse_image(whole, vocab, small_lumina.config.grid).ravel(), range(8)
    )
    fixed = plan.sentence != FREE
    np.testing.assert_array_equal(whole[fixed], plan.sentence[fixed])


def test_unprompted_lead_in_chameleons_layout_starts_with_bos_whatever_is_given(
    small_lumina,
) -> None:
    config = replace(small_lumina.config, image_layout="chameleon")
    vocab = small_lumina.tokenizer.vocab
    plan = plan_image(32, 32, config, vocab, given_of((4, 4), slice(6, 16)))
    assert plan.unprompted == (vocab.bos_id, *plan.lead)
    assert len(plan.lead) == 7 and plan.free_runs == ((7, 17),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (given_of((4, 2), slice(2, 8)), r"given codes of int64 \(4, 2\): .* has integers \(2, 4\)"),
        (np.zeros((2, 4)), "given codes of float64"),
        (given_of((2, 4), slice(2, 8)) + 63, "given codes from 62 to 64: want 0 to 63, and -1"),
        (given_of((2, 4), slice(2, 8)) - 1, "given codes from -2 to 0: want 0 to 63"),
        (given_of((2, 4)), "given codes: all are given; want -1 where one is to be drawn"),
    ],
)
def test_given_codes_that_do_not_fit_are_refused(small_lumina, given, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        plan_image(32, 16, small_lumina.config, small_lumina.tokenizer.vocab, given)
    assert "\n" not in str(caught.value)


def test_check_room_accepts_what_just_fits(small_lumina) -> None:
    check_room(128, 128, 400 - 276, small_lumina.config)
