"""The cached decoder against full recomputation, and how often it compiles."""

import jax
import numpy as np
import pytest

from lumina_jax.config import SampleConfig
from lumina_jax.sampling import sequential
from lumina_jax.sampling.generate import Request, generate
from lumina_jax.sampling.grammar import plan_image
from lumina_jax.sampling.policy import Policy, draw
from lumina_jax.sampling.sequential import MAX_PADDING, padded_length
from lumina_jax.unirep.conversation import prompt_ids

GREEDY = SampleConfig(guidance=2.5, image_top_k=1)
DRAWN = SampleConfig(guidance=1.5, temperature=0.8, image_top_k=30)


def requests_of(lumina, prompts: list[str], size: tuple[int, int]) -> list[Request]:
    return [Request(prompt_ids(text, lumina.tokenizer), *size, seed=3) for text in prompts]


def recomputed_ids(lumina, request: Request, ids: np.ndarray, settings: SampleConfig) -> np.ndarray:
    """What would be drawn in the places after the lead, from one full forward without any cache."""
    vocab = lumina.tokenizer.vocab
    plan = plan_image(request.width_px, request.height_px, lumina.config, vocab)
    codes = slice(vocab.first_code_id, vocab.first_code_id + vocab.num_codes)
    places = np.arange(len(plan.lead), len(ids), dtype=np.int32)
    logits = []
    for before in (np.concatenate([request.prompt_ids, plan.lead]), np.array(plan.unprompted)):
        whole = np.concatenate([before, ids[len(plan.lead) :]])
        padded = np.pad(
            whole, (0, 96 - len(whole))
        )  # one length compiles once; later ids are not seen
        logits.append(lumina.logits(padded[None])[0, len(before) - 1 :][: len(places), codes])
    guided = logits[1] + settings.guidance * (logits[0] - logits[1])
    shape = (len(places), 1)
    one_a_place = Policy(
        np.full(shape, request.seed, np.int32),
        np.full(shape, settings.temperature, np.float32),
        np.full(shape, settings.image_top_k, np.int32),
        np.full(shape, settings.guidance, np.float32),
    )
    drawn = jax.vmap(draw)(guided[:, None], one_a_place, places)
    return np.asarray(drawn)[:, 0] + vocab.first_code_id


@pytest.mark.parametrize("settings", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_sampling_with_cache_equals_full_recomputation(small_lumina, settings) -> None:
    prompts = ["a red star", "a large purple circle, please. It is purple.", "a star"]
    requests = requests_of(small_lumina, prompts, (48, 32))
    results = generate(small_lumina.loaded, requests, settings)
    for request, result in zip(requests, results, strict=True):
        wanted = recomputed_ids(small_lumina, request, result.ids, settings)
        written = result.ids[-len(wanted) :]
        free = small_lumina.tokenizer.vocab.is_code(written)
        np.testing.assert_array_equal(written[free], wanted[free])
        assert free.sum() == 6 * 4


def test_sizes_and_settings_share_one_program(small_lumina) -> None:
    sizes = [(48, 32), (32, 48), (16, 64), (64, 48)]
    requests = [requests_of(small_lumina, ["a red star"], size)[0] for size in sizes]
    generate(small_lumina.loaded, requests, GREEDY)
    compiled = sequential.draw_run._cache_size(), sequential._fill_cache._cache_size()
    other = SampleConfig(guidance=3.0, temperature=0.5, image_top_k=7)
    generate(small_lumina.loaded, requests[1:] + requests[:1], other)
    assert (sequential.draw_run._cache_size(), sequential._fill_cache._cache_size()) == compiled


def test_padded_length_has_few_values() -> None:
    assert [padded_length(n) for n in (0, 1, 32, 33, 200, 257, 512)] == [
        32,
        32,
        32,
        64,
        256,
        512,
        512,
    ]
    assert all(n <= padded_length(n) <= n + MAX_PADDING for n in range(2000))
    assert len({padded_length(n) for n in range(2000)}) < 12
