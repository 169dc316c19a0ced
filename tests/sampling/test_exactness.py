"""Two hundred random requests: the tied window decoder against the sequential one, token for token, in float32."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.config import SampleConfig
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import Generated, generate, prepare
from lumina_jax.sampling.policy import gumbel_noise
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.grid import crop_sizes

WINDOWS = (2, 5, 16)
TEXTS = [
    "a red dome",
    "three blue rings left of a cube",
    "a small green sphere on a white floor",
    "?",
]
MAX_GAP = 1e-4  # two perturbed logits this close may change places between programs of other shapes
MAX_SHARE = 1e-3  # of tokens at which they do


def random_requests(
    lumina: Lumina, largest_px: int, num_cases: int, rng: np.random.Generator
) -> list[Request]:
    """Random (seed, size, guidance, top-k, window)."""
    sizes = crop_sizes(largest_px, lumina.config.grid)
    requests = []
    for index in range(num_cases):
        settings = SampleConfig(
            guidance=float(rng.choice([1.0, rng.uniform(1.1, 5)])),
            temperature=float(rng.uniform(0.5, 1.2)),
            image_top_k=int(rng.integers(1, 400)),
            window=WINDOWS[index % len(WINDOWS)],
            branches=(1, 1, 2) if WINDOWS[index % len(WINDOWS)] in (5, 16) else (),
        )
        prompt = prompt_ids(str(rng.choice(TEXTS)), lumina.tokenizer)
        size, seed = sizes[rng.integers(len(sizes))], int(rng.integers(2**31))
        requests.append(Request(prompt, *size, seed, settings))
    return requests


def gap(
    lumina: Lumina, request: Request, settings: SampleConfig, result: Generated, code: int
) -> float:
    """Between the two largest perturbed logits where the `code`-th code was drawn, by full forwards."""
    (job,) = prepare(lumina.loaded, [replace(request, settings=settings)])
    place = int(np.flatnonzero(job.plan.sentence < 0)[code])
    before = result.ids[len(job.plan.lead) : place]
    vocab = lumina.tokenizer.vocab
    streams = [
        lumina.logits(np.concatenate([context, before])[None])[0, -1][vocab.first_code_id :][
            : vocab.num_codes
        ]
        for context in job.contexts
    ]
    scale = settings.guidance if len(streams) > 1 else 1.0
    guided = streams[-1] + scale * (streams[0] - streams[-1])
    dropped = np.argsort(-guided, kind="stable")[settings.image_top_k :]
    guided[dropped] = -np.inf
    noise = gumbel_noise(np.array([request.seed]), np.int32(place), vocab.num_codes)[0]
    second, first = np.sort(guided / settings.temperature + np.asarray(noise))[-2:]
    return float(first - second)


def check(lumina: Lumina, largest_px: int, num_cases: int, name: str) -> None:
    """Every request's codes are equal, but for first differences at near-ties, which are counted."""
    requests = random_requests(lumina, largest_px, num_cases, np.random.default_rng(7))
    wanted = generate(lumina.loaded, requests)
    window = [replace(each, settings=replace(each.settings, decoder="jacobi")) for each in requests]
    num_codes, num_ties = 0, 0
    for one, left, right in zip(requests, wanted, generate(lumina.loaded, window), strict=True):
        num_codes += left.codes.size
        different = np.flatnonzero(left.codes.ravel() != right.codes.ravel())
        if len(different):
            num_ties += 1
            assert gap(lumina, one, one.settings, left, int(different[0])) <= MAX_GAP
    print(f"{name}: {num_cases} requests, {num_codes} codes, {num_ties} near-ties changed places")
    assert num_ties <= MAX_SHARE * num_codes


@pytest.mark.slow
def test_random_requests_draw_the_sequential_tokens_with_the_shipped_model() -> None:
    check(Lumina.load("scenes"), 128, 100, "scenes")


@pytest.mark.slow
def test_random_requests_draw_the_sequential_tokens_with_golden_models(
    golden, golden_checkpoint
) -> None:
    check(Lumina.load(golden_checkpoint), 96, 50, golden.name)
