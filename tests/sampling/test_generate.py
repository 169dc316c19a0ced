"""Grouping, batching and checking of requests."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.config import SampleConfig
from lumina_jax.model.presets import PRESETS
from lumina_jax.sampling import DECODERS, sequential, slot_state, window
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import batch_limit, generate
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.grid import FREE, crop_sizes
from lumina_jax.unirep.image_tokens import parse_image

SETTINGS = SampleConfig(guidance=2.0, image_top_k=30)
TEXTS = ["a red star", "a small green circle, please.", "a large purple square. It is purple."]
# The windows of "coupled" are those of "jacobi".
EVERY = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "coupled" else []) for name in DECODERS
]


@pytest.fixture
def request_for(small_lumina):
    """`request_for(text, size, seed)`."""

    def make(text: str, size: tuple[int, int] = (48, 32), seed: int = 0) -> Request:
        return Request(prompt_ids(text, small_lumina.tokenizer), *size, seed=seed)

    return make


@pytest.fixture
def spied_batches(monkeypatch) -> list:
    """The batches that the sequential decoder drew."""
    seen, draw_runs = [], sequential.draw_runs

    def spy(network, batch):
        seen.append(batch)
        return draw_runs(network, batch)

    monkeypatch.setattr(sequential, "draw_runs", spy)
    return seen


@pytest.mark.parametrize("decoder", EVERY)
def test_row_of_a_batch_equals_the_same_request_alone(small_lumina, request_for, decoder) -> None:
    settings = replace(SETTINGS, decoder=decoder)
    requests = [request_for(text, seed=seed) for seed, text in enumerate(TEXTS)]
    together = generate(small_lumina.loaded, requests, settings)
    for request, result in zip(requests, together, strict=True):
        (alone,) = generate(small_lumina.loaded, [request], settings)
        np.testing.assert_array_equal(alone.ids, result.ids)


SCHEDULED = replace(SETTINGS, guidance_schedule=(5.0, 1.0, 2.0), image_min_p=0.1)


def controlled(request_for, shift: int = 0) -> list[Request]:
    """Requests with a negative prompt, a given upper part, one that ends in a row, and holes."""
    codes = (np.arange(24) + shift) % 64
    parts = [codes * 0 < 0, np.arange(24) < 12, np.arange(24) < 7 + shift, np.arange(24) % 4 > 1]
    givens = [np.where(part, codes, FREE).reshape(4, 6) for part in parts]
    requests = [request_for(TEXTS[0], seed=seed + shift) for seed in range(4)]
    negative = request_for(TEXTS[1 + shift]).prompt_ids
    return [replace(requests[0], negative_ids=negative)] + [
        replace(request, given=given)
        for request, given in zip(requests[1:], givens[1:], strict=True)
    ]


# "staggered" takes no given codes.
TAKES_GIVEN = [row for row in EVERY if row.values != ("staggered",)]
# where the decoder with windows has the harder case
WINDOWS_FIRST = [
    pytest.param(*row.values, marks=pytest.mark.slow) if row.values == ("sequential",) else row
    for row in TAKES_GIVEN
]


@pytest.mark.parametrize("decoder", TAKES_GIVEN)
def test_controlled_row_equals_the_same_request_alone(small_lumina, request_for, decoder) -> None:
    settings = replace(SCHEDULED, decoder=decoder, window=4)
    requests = controlled(request_for)
    together = generate(small_lumina.loaded, requests, settings)
    for request, result in zip(requests, together, strict=True):
        (alone,) = generate(small_lumina.loaded, [request], settings)
        np.testing.assert_array_equal(alone.ids, result.ids)
        if request.given is not None:
            stands = request.given != FREE
            np.testing.assert_array_equal(result.codes[stands], request.given[stands])


@pytest.mark.parametrize("decoder", TAKES_GIVEN)
def test_new_values_of_controls_compile_nothing(small_lumina, request_for, decoder) -> None:
    settings = replace(SCHEDULED, decoder=decoder, window=4)
    programs = (sequential.draw_run, sequential.fill_cache, slot_state.admit, window.advance)
    generate(small_lumina.loaded, controlled(request_for), settings)
    compiled = [program._cache_size() for program in programs]
    other = replace(settings, guidance_schedule=(1.0, 2.5), image_min_p=0.6, image_top_k=12)
    generate(small_lumina.loaded, controlled(request_for, 1), other)
    assert [program._cache_size() for program in programs] == compiled


@pytest.mark.parametrize("decoder", WINDOWS_FIRST)
def test_constant_schedule_equals_constant_guidance(small_lumina, request_for, decoder) -> None:
    constant = replace(SCHEDULED, decoder=decoder, window=4, guidance_schedule=(), guidance=2.7)
    scheduled = replace(constant, guidance_schedule=(2.7, 2.7), guidance=9.0)
    requests = [request_for(text, seed=seed) for seed, text in enumerate(TEXTS)]
    one, other = (generate(small_lumina.loaded, requests, each) for each in (constant, scheduled))
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first.ids, second.ids)


def test_schedule_of_ones_equals_no_guidance(small_lumina, request_for) -> None:
    requests = [request_for(text, seed=seed) for seed, text in enumerate(TEXTS)]
    plain, ones = (
        generate(small_lumina.loaded, requests, replace(SETTINGS, **each))
        for each in ({"guidance": 1.0}, {"guidance_schedule": (1.0, 1.0)})
    )
    for one, other in zip(plain, ones, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


@pytest.mark.parametrize("decoder", WINDOWS_FIRST)
def test_progress_tells_given_codes_with_the_drawn_ones(small_lumina, request_for, decoder) -> None:
    settings, seen = replace(SCHEDULED, decoder=decoder, window=4), []
    lower = np.where(np.arange(24) < 9, FREE, np.arange(24)).reshape(4, 6)
    requests = [*controlled(request_for), replace(request_for(TEXTS[2]), given=lower)]
    results = generate(small_lumina.loaded, requests, settings, seen.append)
    for index, (request, result) in enumerate(zip(requests, results, strict=True)):
        rows = [
            (row.row_index, row.codes[row.requests.index(index)], row.passes)
            for row in seen
            if index in row.requests
        ]
        assert [row_index for row_index, _, _ in rows] == [0, 1, 2, 3]
        np.testing.assert_array_equal([codes for _, codes, _ in rows], result.codes)
        assert [passes is None for _, _, passes in rows] == [True, True, True, False]
        num_free = 24 if request.given is None else (request.given == FREE).sum()
        assert 1 <= rows[-1][2] <= num_free + 4  # a given code between drawn ones may cost a pass


def test_row_does_not_depend_on_its_neighbours_settings(small_lumina, request_for) -> None:
    request, neighbour = request_for(TEXTS[0]), request_for(TEXTS[1], seed=5)
    hot = replace(neighbour, settings=replace(SETTINGS, temperature=3.0, guidance=7.0))
    first = generate(small_lumina.loaded, [request, neighbour, neighbour], SETTINGS)
    second = generate(small_lumina.loaded, [request, hot, hot], SETTINGS)
    np.testing.assert_array_equal(first[0].ids, second[0].ids)
    assert not np.array_equal(first[1].ids, second[1].ids)


def test_results_come_in_the_order_of_the_requests(small_lumina, request_for) -> None:
    sizes = [(48, 32), (32, 64), (48, 32), (16, 16), (48, 32)]
    requests = [request_for(TEXTS[0], size, seed) for seed, size in enumerate(sizes)]
    results = generate(small_lumina.loaded, requests, SETTINGS, max_batch=1)
    assert [result.codes.shape for result in results] == [(4, 6), (8, 4), (4, 6), (2, 2), (4, 6)]
    together = generate(small_lumina.loaded, requests, SETTINGS)
    for one, other in zip(results, together, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


def test_every_image_parses_to_the_asked_size(small_lumina, request_for) -> None:
    rng = np.random.default_rng(0)
    config, vocab = small_lumina.config, small_lumina.tokenizer.vocab
    sizes = [tuple(size) for size in rng.choice(crop_sizes(64, config.grid), 6, replace=False)]
    wild = SampleConfig(guidance=9.0, temperature=50.0, image_top_k=10**6)
    requests = [request_for(TEXTS[1], size, seed) for seed, size in enumerate(sizes)]
    for size, result in zip(sizes, generate(small_lumina.loaded, requests, wild), strict=True):
        codes = parse_image(result.ids, vocab, config.grid)
        np.testing.assert_array_equal(codes, result.codes)
        assert (codes.shape[1] * 8, codes.shape[0] * 8) == size  # 8 px a code


def test_seed_decides_the_image(small_lumina, request_for) -> None:
    requests = [request_for(TEXTS[0], seed=seed) for seed in (1, 2, 1)]
    ids = [result.ids.tolist() for result in generate(small_lumina.loaded, requests, SETTINGS)]
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize(
    ("guidance", "image_guidance", "num_rows"), [(1.0, None, 4), (2.0, None, 8), (1.0, 2.0, 12)]
)
def test_batch_has_a_row_for_every_stream_that_guidance_reads(
    small_lumina, request_for, spied_batches, guidance, image_guidance, num_rows: int
) -> None:
    settings = replace(SETTINGS, guidance=guidance, image_guidance=image_guidance)
    generate(small_lumina.loaded, [request_for(text) for text in TEXTS], settings)
    assert len(spied_batches[-1].contexts) == num_rows  # 3 requests fill a batch of 4


def test_requests_share_a_batch_only_with_equal_streams_and_cuts(
    small_lumina, request_for, monkeypatch
) -> None:
    seen = []

    def no_codes(network, batch):
        cuts = batch.policy.top_p, batch.policy.min_p, batch.policy.schedule
        seen.append((len(batch.contexts), *(cut is None for cut in cuts)))
        yield from np.zeros((len(batch.plan.runs), len(batch.policy.seed), 128), np.int32)

    monkeypatch.setattr(sequential, "draw_runs", no_codes)
    kinds = [
        replace(SETTINGS, guidance=1.0),
        SETTINGS,
        replace(SETTINGS, image_guidance=1.2),
        replace(SETTINGS, image_top_p=0.6),
        replace(SETTINGS, image_guidance=1.2, image_top_p=0.3),
        replace(SETTINGS, image_min_p=0.1),
        replace(SETTINGS, guidance_schedule=(1.0, 2.0)),
    ]
    generate(small_lumina.loaded, [replace(request_for("a"), settings=each) for each in kinds * 2])
    assert seen == [
        (2, True, True, True),
        (4, True, True, True),
        (4, True, True, False),
        (4, True, False, True),
        (4, False, True, True),
        (6, True, True, True),
        (6, False, True, True),
    ]


def test_equal_scales_of_text_and_images_paint_as_two_streams(small_lumina, request_for) -> None:
    greedy = SampleConfig(guidance=2.5, image_top_k=1)
    requests = [request_for(text) for text in TEXTS]
    two = generate(small_lumina.loaded, requests, greedy)
    three = generate(small_lumina.loaded, requests, replace(greedy, image_guidance=2.5))
    for one, other in zip(two, three, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


def test_guidance_near_1_equals_no_guidance(small_lumina, request_for) -> None:
    near_one = replace(SETTINGS, guidance=1 + 1e-6)  # computes both rows and cancels one of them
    requests = [request_for(text) for text in TEXTS]
    plain = generate(small_lumina.loaded, requests, replace(SETTINGS, guidance=1))
    paired = generate(small_lumina.loaded, requests, near_one)
    for one, other in zip(plain, paired, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


def test_progress_hands_over_every_row_of_codes(small_lumina, request_for) -> None:
    seen = []
    requests = [request_for(text, (32, 48), seed) for seed, text in enumerate(TEXTS)]
    results = generate(small_lumina.loaded, requests, SETTINGS, seen.append)
    assert [(row.row_index, row.passes) for row in seen] == [
        *((i, None) for i in range(5)),
        (5, 24),
    ]
    assert {row.requests for row in seen} == {(0, 1, 2)}
    painted = np.stack([row.codes for row in seen], axis=1)
    np.testing.assert_array_equal(painted, [result.codes for result in results])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed -1: want 0 to 2147483647"),
        ({"seed": 2**31}, "seed 2147483648"),
        ({"width_px": 50}, "multiples of 16 px"),
        ({"prompt_ids": np.zeros(1, np.int32)}, "prompt of 1 tokens"),
        ({"prompt_ids": np.zeros(390, np.int32)}, "the prompt takes 390 of 400"),
        ({"settings": SampleConfig(decoder="jacoby")}, "unknown decoder 'jacoby'"),
        ({"negative_ids": np.zeros(400, np.int32)}, "negative prompt of 400 tokens: this model"),
        ({"negative_ids": np.zeros(380, np.int32)}, "the negative prompt takes 380 of 400"),
        (
            {"negative_ids": np.zeros(3, np.int32), "settings": SampleConfig(guidance=1)},
            "negative prompt: guidance 1 reads none",
        ),
        (
            {"negative_ids": np.zeros(3, np.int32), "settings": SampleConfig(grammar="original")},
            "negative prompt: grammar 'original' reads none",
        ),
        (
            {"given": np.zeros((4, 6), int), "settings": SampleConfig(grammar="original")},
            "given codes: grammar 'original' draws all",
        ),
        ({"given": np.zeros((4, 5), int)}, r"given codes of int64 \(4, 5\): .* \(4, 6\)"),
    ],
)
def test_bad_request_is_refused_before_anything_is_drawn(
    small_lumina, request_for, spied_batches, change: dict, message: str
) -> None:
    bad = replace(request_for(TEXTS[0]), **change)
    with pytest.raises(ValueError, match=message):
        generate(small_lumina.loaded, [request_for(TEXTS[0]), bad], SETTINGS)
    assert spied_batches == []


def test_batch_limit_keeps_the_cache_in_its_share_of_memory() -> None:
    large = replace(PRESETS["7b"].transformer, compute_dtype="bfloat16")
    assert batch_limit(large, num_slots=2432, num_streams=2) == 2
    assert batch_limit(large, num_slots=2432, num_streams=1) == 4
    assert batch_limit(large, num_slots=1152, num_streams=3) == 4
    assert batch_limit(replace(large, num_layers=1024), num_slots=4352, num_streams=2) == 1
    assert batch_limit(PRESETS["scenes"].transformer, num_slots=384, num_streams=2) == 32
