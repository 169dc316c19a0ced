"""The plan of an image: forced tokens, free codes, and the sizes that are refused."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.sampling.grammar import check_room, plan_image
from lumina_jax.unirep.grid import crop_sizes
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
        ((144, 128), 5, r"18432 px, this model paints at most 16384 px \(128x128\)"),
        ((128, 128), 200, r"needs 276 tokens, .* \(the prompt takes 200 of 400\)"),
        ((16, 16), 400, "prompt of 400 tokens: this model reads 400 tokens"),
    ],
)
def test_check_room_refuses(small_lumina, size, num_prompt_tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_room(*size, num_prompt_tokens, small_lumina.config)
    assert "\n" not in str(caught.value)


def test_check_room_accepts_what_just_fits(small_lumina) -> None:
    check_room(128, 128, 400 - 276, small_lumina.config)
