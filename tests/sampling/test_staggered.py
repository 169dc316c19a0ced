"""Rows drawn side by side: with a lag of a whole row the sequential decoder, with less fewer passes."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.config import SampleConfig
from lumina_jax.sampling import staggered
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import generate
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.image_tokens import parse_image

SETTINGS = SampleConfig(guidance=2.0, image_top_k=30, decoder="staggered", lag=2)
SIZES = [(48, 32), (32, 48), (48, 32), (16, 64)]  # codes of 8 px


def requests_of(lumina) -> list[Request]:
    texts = ["a red star", "a small green circle, please.", "a star", "?"]
    ids = [prompt_ids(text, lumina.tokenizer) for text in texts]
    return [
        Request(*pair, seed=seed)
        for seed, pair in enumerate((i, *s) for i, s in zip(ids, SIZES, strict=True))
    ]


@pytest.mark.parametrize("guidance", [pytest.param(1.0, marks=pytest.mark.slow), 2.0])
def test_lag_of_a_whole_row_draws_the_sequential_codes(small_lumina, guidance: float) -> None:
    settings = replace(SETTINGS, guidance=guidance)
    plain = generate(
        small_lumina.loaded, requests_of(small_lumina), replace(settings, decoder="sequential")
    )
    for request, wanted in zip(requests_of(small_lumina), plain, strict=True):
        lag = wanted.codes.shape[1] + 1  # the row above and its line end
        (got,) = generate(small_lumina.loaded, [request], replace(settings, lag=lag))
        np.testing.assert_array_equal(got.ids, wanted.ids)


def test_images_parse_and_take_few_passes(small_lumina) -> None:
    rows: list = []
    requests = requests_of(small_lumina)
    results = generate(small_lumina.loaded, requests, SETTINGS, rows.append)
    for request, result in zip(requests, results, strict=True):
        codes = parse_image(result.ids, small_lumina.tokenizer.vocab, small_lumina.config.grid)
        np.testing.assert_array_equal(codes, result.codes)
        assert codes.shape == (request.height_px // 8, request.width_px // 8)
    passes = {index: row.passes for row in rows for index in row.requests if row.passes}
    shapes = [result.codes.shape for result in results]
    assert passes == {index: (p - 1) * 2 + q for index, (p, q) in enumerate(shapes)}


def test_last_row_of_a_wide_image_is_drawn_to_its_end(small_lumina) -> None:
    request = Request(prompt_ids("a star", small_lumina.tokenizer), 64, 16)  # two rows of eight
    (result,) = generate(small_lumina.loaded, [request], replace(SETTINGS, lag=1))
    assert result.codes.min() >= 0


def test_row_does_not_depend_on_its_neighbours(small_lumina) -> None:
    requests = requests_of(small_lumina)
    together = generate(small_lumina.loaded, requests, SETTINGS)
    for request, result in zip(requests, together, strict=True):
        (alone,) = generate(small_lumina.loaded, [request], SETTINGS)
        np.testing.assert_array_equal(alone.ids, result.ids)


def test_a_row_sees_what_exists_of_the_rows_above_and_nothing_else() -> None:
    # Two columns, stride 3, a context of 4 tokens of which 2 are the lead: the sentence begins at slot 2.
    grid = staggered.Grid(*map(np.int32, (2, 3, 2, 2, 1)))
    seen = staggered._seen(np.array([2]), np.array([1, 0]), np.int32(2), grid, 12)[0]
    #        context    row 0: lead, 1st, 2nd   row 1: line end, 1st code; not yet: the 2nd
    wanted = [1, 1, 1] + [1, 1, 1] + [1, 1, 0] + [0, 0, 0]
    np.testing.assert_array_equal(seen[0], np.array(wanted, bool))
    np.testing.assert_array_equal(seen[1], np.array([1] * 6 + [0] * 6, bool))


def test_what_cannot_be_staggered_is_refused(small_lumina) -> None:
    request = requests_of(small_lumina)[0]
    given = np.full((4, 6), -1)
    given[0] = 3
    with pytest.raises(ValueError, match="'staggered' draws whole images"):
        generate(small_lumina.loaded, [replace(request, given=given)], SETTINGS)
    with pytest.raises(ValueError, match="lag 0: want at least 1 code"):
        replace(SETTINGS, lag=0)
    parts = small_lumina.params, small_lumina.vqgan_params, small_lumina.tokenizer
    squares = Lumina(replace(small_lumina.config, image_layout="chameleon", target_px=32), *parts)
    with pytest.raises(ValueError, match="no line ends to begin from"):
        generate(squares.loaded, [Request(request.prompt_ids, 32, 32)], SETTINGS)
