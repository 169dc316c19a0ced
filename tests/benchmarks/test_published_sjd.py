"""The published speculative Jacobi decoding: its law against the exact one, and when it costs how many passes."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.peers.published_sjd import (
    NUM_LEAD,
    Program,
    State,
    advance,
    draw_images,
    random_drafts,
)
from lumina_jax.config import SampleConfig
from lumina_jax.model.chameleon import forward
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import generate, prepare

SIZE = (32, 16)  # 2 x 4 codes: 9 tokens up to the last code, with the line end between
SETTINGS = SampleConfig(guidance=2.0, image_top_k=3, temperature=0.7)
TO_THE_END = -NUM_LEAD  # an `end_margin` with which the window reaches the last code


def requests(count: int) -> list[Request]:
    return [Request(np.array([0, 250, 251]), *SIZE, seed) for seed in range(count)]


def guided_logits(model, rows: np.ndarray) -> np.ndarray:
    """Of the code after each of `rows`, codes [B, n] of the image's first line: Float[B, M], without any cache."""
    (job,) = prepare(model, requests(1), SETTINGS)
    vocab = model.tokenizer.vocab
    streams = []
    for context in job.contexts:
        ids = np.concatenate([np.tile(context, (len(rows), 1)), rows + vocab.first_code_id], axis=1)
        run = jax.jit(lambda params, ids: forward(params, model.config.transformer, ids)[0][:, -1])
        logits = run(model.params["transformer"], ids.astype(np.int32))
        streams.append(np.asarray(logits)[:, vocab.first_code_id :][:, : vocab.num_codes])
    return streams[1] + SETTINGS.guidance * (streams[0] - streams[1])


def target(logits: np.ndarray) -> np.ndarray:
    """The law of the policy: the three best, tempered."""
    scores = np.where(logits >= np.sort(logits)[:, -3:-2], logits / SETTINGS.temperature, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def exact_law(model, length: int) -> dict[tuple[int, ...], float]:
    """The probability of every possible run of the first `length` codes."""
    law: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        prefixes = list(law)
        rows = np.array(prefixes, int).reshape(len(prefixes), -1)
        law = {
            (*prefix, int(code)): law[prefix] * probs[code]
            for prefix, probs in zip(prefixes, target(guided_logits(model, rows)), strict=True)
            for code in np.flatnonzero(probs)
        }
    return law


def statistic(drawn: np.ndarray, law: dict[tuple[int, ...], float]) -> float:
    """Chi-square over the degrees of freedom of runs [B, n] under a law; cells of under 5 count as one."""
    seen = np.array([(drawn == run).all(axis=1).sum() for run in law])
    assert seen.sum() == len(drawn)  # nothing outside of the law
    expected = len(drawn) * np.array(list(law.values()))
    rare = expected < 5
    seen = np.append(seen[~rare], seen[rare].sum())
    expected = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
    return ((seen - expected) ** 2 / expected).sum() / (len(seen) - 1)


@pytest.mark.parametrize("window", [2, 5])
def test_a_markov_chain_is_drawn_by_its_law(window: int) -> None:
    """The rule alone, under a law that changes much with the token before it."""
    num_codes, length, count = 4, 4, 20_000
    chain = np.random.default_rng(0).dirichlet(np.full(num_codes, 0.4), num_codes + 1)
    chain = jnp.pad(
        jnp.asarray(chain, jnp.float32), ((0, 0), (0, 1))
    )  # row `num_codes`: at the start
    program = Program(None, (0, num_codes), num_codes, window, last=99)  # type: ignore[arg-type]
    key = jax.random.key(0)
    drafts, q = random_drafts(key, (count, window - 1), num_codes + 1)
    zeros = jnp.zeros(count, jnp.int32)
    drawn = jnp.zeros((count, length + window), jnp.int32)
    state = State(None, drawn, zeros, zeros + 2, drafts, q, zeros, jnp.int32(1))  # type: ignore[arg-type]

    @jax.jit
    def step(state: State) -> State:
        last = jnp.take_along_axis(state.drawn, jnp.maximum(state.count - 1, 0)[:, None], axis=1)
        last = jnp.where(state.count[:, None] == 0, num_codes, last)
        probs = chain[jnp.concatenate([last, state.drafts], axis=1)]
        return advance(state, probs, key, length, program)

    while (state.count < length).any():
        state = step(state)
    table = np.asarray(chain, np.float64)
    law = {}
    for run in product(range(num_codes), repeat=length):
        steps = zip((num_codes, *run), run, strict=False)
        law[run] = float(np.prod([table[before, after] for before, after in steps]))
    assert statistic(np.asarray(state.drawn)[:, :length], law) < 1.4
    assert state.passes.mean() < length - 0.3 and state.passes.max() <= length


@pytest.mark.slow
def test_first_three_codes_have_the_exact_joint_law(small_lumina) -> None:
    model, count = small_lumina.loaded, 1024
    codes, _ = draw_images(model, requests(count), SETTINGS, 6, TO_THE_END)
    law = exact_law(model, 3)
    assert len(law) == 27 and abs(sum(law.values()) - 1) < 1e-5
    assert statistic(codes[:, 0, :3], law) < 2.1  # exceeded once in a thousand


def test_window_of_one_is_plain_decoding(small_lumina) -> None:
    _, passes = draw_images(small_lumina.loaded, requests(3), SETTINGS, window=1)
    assert passes.tolist() == [9, 9, 9]


@pytest.mark.slow
def test_greedy_codes_equal_those_of_our_decoder_in_fewer_passes(small_lumina) -> None:
    """Where one code has all the probability, drafts that repeat it are always kept."""
    greedy = replace(SETTINGS, image_top_k=1)
    codes, passes = draw_images(small_lumina.loaded, requests(2), greedy, 6, TO_THE_END)
    ours = generate(small_lumina.loaded, requests(2), greedy)
    np.testing.assert_array_equal(codes, [result.codes for result in ours])
    assert (passes <= 9).all() and passes[0] == passes[1]


def test_window_closes_ten_tokens_before_the_end(small_lumina) -> None:
    """8 + 2 - 10 = 0 generated tokens: as published, an image this small never sees a window."""
    _, passes = draw_images(small_lumina.loaded, requests(2), replace(SETTINGS, image_top_k=1), 6)
    assert passes.tolist() == [9, 9]


def test_images_of_several_sizes_are_refused(small_lumina) -> None:
    mixed = [*requests(1), Request(np.array([0, 250]), 16, 16)]
    with pytest.raises(ValueError, match="one size"):
        draw_images(small_lumina.loaded, mixed, SETTINGS)
