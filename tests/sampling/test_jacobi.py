"""Decoders of many codes a pass against the sequential one."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.config import SampleConfig
from lumina_jax.sampling import jacobi, slot_state, window
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.drafts import DRAFTS
from lumina_jax.sampling.generate import generate
from lumina_jax.unirep.conversation import prompt_ids

SIZES = [(48, 32), (32, 64), (16, 16), (64, 48), (16, 64)]  # codes of 8 px
SETTINGS = SampleConfig(guidance=2.0, image_top_k=30, decoder="jacobi", window=5)


def requests_of(lumina, settings: SampleConfig) -> list[Request]:
    """Prompts of different lengths, sizes, seeds and settings."""
    texts = [
        "a red star",
        "a small green circle, please.",
        "a star",
        "two circles. They are red.",
        "?",
    ]
    kinds = [{}, {"guidance": 3.5}, {"image_top_k": 4}, {"temperature": 0.6}, {"image_top_k": 1}]
    return [
        Request(prompt_ids(text, lumina.tokenizer), *size, seed, replace(settings, **kind))
        for seed, (text, size, kind) in enumerate(zip(texts, SIZES, kinds, strict=True))
    ]


def draw(lumina, settings: SampleConfig, max_batch: int | None = None) -> tuple[list, dict]:
    """What every request became, and how many passes it took."""
    passes: dict[int, int] = {}

    def count(row) -> None:
        if row.passes is not None:
            passes.update(dict.fromkeys(row.requests, row.passes))

    requests = requests_of(lumina, settings)
    return generate(lumina.loaded, requests, progress=count, max_batch=max_batch), passes


@pytest.fixture(scope="module")
def sequential(small_lumina) -> list:
    return draw(small_lumina, replace(SETTINGS, decoder="sequential"))[0]


@pytest.mark.parametrize(
    "drafts", [pytest.param(n, marks=pytest.mark.slow) if n == "uniform" else n for n in DRAFTS]
)
def test_tied_window_draws_the_sequential_codes_in_fewer_passes(
    small_lumina, sequential, drafts: str
) -> None:
    results, passes = draw(small_lumina, replace(SETTINGS, drafts=drafts))
    for index, (one, other) in enumerate(zip(results, sequential, strict=True)):
        np.testing.assert_array_equal(one.ids, other.ids)
        assert passes[index] <= one.codes.size  # a forced token never costs a pass
    assert sum(passes.values()) < 0.8 * sum(result.codes.size for result in results)


def test_branches_draw_the_sequential_codes_in_no_more_passes(small_lumina, sequential) -> None:
    _, alone = draw(small_lumina, SETTINGS)
    results, passes = draw(small_lumina, replace(SETTINGS, branches=(1, 1, 2, 3)))
    for one, other in zip(results, sequential, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
    assert sum(passes.values()) < sum(alone.values())


@pytest.mark.parametrize(
    "cut",
    [
        {"image_top_p": 0.7},
        pytest.param(
            {"image_top_p": 0.7, "image_min_p": 0.05, "guidance_schedule": (3.0, 1.5)},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["top-p", "all"],
)
def test_cuts_of_the_law_hold_in_windows(small_lumina, cut: dict) -> None:
    settings = replace(SETTINGS, window=3, **cut)
    requests = [replace(each, settings=None) for each in requests_of(small_lumina, settings)[:3]]
    windowed = generate(small_lumina.loaded, requests, settings)
    plain = generate(small_lumina.loaded, requests, replace(settings, decoder="sequential"))
    for one, other in zip(windowed, plain, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


def test_window_of_1_draws_the_sequential_codes_a_token_a_pass(small_lumina, sequential) -> None:
    results, passes = draw(small_lumina, replace(SETTINGS, window=1))
    for index, (one, other) in enumerate(zip(results, sequential, strict=True)):
        np.testing.assert_array_equal(one.ids, other.ids)
        num_rows = one.codes.shape[0]
        assert passes[index] == one.codes.size + num_rows - 1  # line ends between rows


@pytest.mark.parametrize("decoder", ["jacobi", pytest.param("coupled", marks=pytest.mark.slow)])
def test_slot_of_a_finished_request_draws_the_next_one_alike(small_lumina, decoder: str) -> None:
    settings = replace(SETTINGS, decoder=decoder)
    wide, narrow = (draw(small_lumina, settings, max_batch)[0] for max_batch in (8, 2))
    for one, other in zip(wide, narrow, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


def test_rows_come_in_order_and_whole(small_lumina) -> None:
    rows: dict[int, list] = {}
    requests = requests_of(small_lumina, SETTINGS)
    results = generate(
        small_lumina.loaded,
        requests,
        progress=lambda row: rows.setdefault(*row.requests, []).append(row),
    )
    for index, result in enumerate(results):
        assert [row.row_index for row in rows[index]] == list(range(result.codes.shape[0]))
        np.testing.assert_array_equal(
            np.concatenate([row.codes for row in rows[index]]), result.codes
        )
        assert [row.passes is None for row in rows[index]] == [True] * (len(rows[index]) - 1) + [
            False
        ]


def test_sizes_prompts_and_settings_share_two_programs(small_lumina) -> None:
    draw(small_lumina, SETTINGS, 4)
    compiled = slot_state.admit._cache_size(), window.advance._cache_size()
    draw(small_lumina, replace(SETTINGS, guidance=7.0, temperature=2.0, image_top_k=9), 4)
    assert (slot_state.admit._cache_size(), window.advance._cache_size()) == compiled


def test_broken_noise_is_noticed(small_lumina, sequential, monkeypatch) -> None:
    def other_noise(seed, at, num_codes):
        return true_noise(seed + 1, at, num_codes)

    true_noise = window.positional_noise
    monkeypatch.setattr(window, "positional_noise", other_noise)
    monkeypatch.setattr(jacobi, "advance", window.advance.__wrapped__)  # not the compiled one
    requests = requests_of(small_lumina, replace(SETTINGS, window=2))[2:3]
    (result,) = generate(small_lumina.loaded, requests)
    assert not np.array_equal(result.ids, sequential[2].ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"window": 0}, "window 0: want 1 to 1024"), ({"drafts": "below"}, "unknown draft 'below'")],
)
def test_bad_window_is_refused(small_lumina, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(small_lumina, replace(SETTINGS, **change))
