"""The model's own likelihood of an image against the log-softmax of its full logits."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.config import SampleConfig
from lumina_jax.sampling import likelihood
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import draw_jobs, network_of, prepare
from lumina_jax.sampling.likelihood import likelihoods
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.grid import FREE

SETTINGS = SampleConfig(guidance=2.0, image_top_k=30)
GIVEN = np.where(np.arange(16) % 3 == 1, np.arange(16), FREE).reshape(4, 4)


def mean_log_p(lumina, context: np.ndarray, ids: np.ndarray, free: np.ndarray) -> float:
    """Of the codes at the places `free` of an image sentence, the context ending before it; float64, one forward."""
    vocab = lumina.tokenizer.vocab
    whole = np.concatenate([context, ids])
    logits = lumina.logits(whole[None])[0].astype(np.float64)
    total = 0.0
    for place in free:
        among = logits[len(context) + place - 1][vocab.first_code_id :][: vocab.num_codes]
        among = among - among.max()
        total += among[ids[place] - vocab.first_code_id] - np.log(np.exp(among).sum())
    return total / len(free)


@pytest.mark.parametrize("layout", ["uni_rep", pytest.param("chameleon", marks=pytest.mark.slow)])
def test_likelihood_equals_the_log_softmax_of_full_logits(
    small_lumina, layout, monkeypatch
) -> None:
    config = replace(small_lumina.config, image_layout=layout, target_px=32)
    parts = small_lumina.params, small_lumina.vqgan_params, small_lumina.tokenizer
    lumina, vocab = Lumina(config, *parts), small_lumina.tokenizer.vocab
    prompts = [prompt_ids(text, lumina.tokenizer) for text in ("a red star", "a", "a star. A red")]
    requests = [Request(ids, 32, 32, seed=seed) for seed, ids in enumerate(prompts)]
    requests[1] = replace(requests[1], given=GIVEN, negative_ids=prompts[0])
    jobs = prepare(lumina.loaded, requests, SETTINGS)
    results = draw_jobs(lumina.loaded, jobs)
    monkeypatch.setattr(likelihood, "BATCH_LOGITS", 2 * 128 * 64)  # two images at a time
    given = network_of(lumina.loaded), jobs, [result.ids for result in results]
    prompted, unprompted = likelihoods(*given), likelihoods(*given, prompted=False)
    before = [] if layout == "uni_rep" else [vocab.bos_id]
    for index, (job, result) in enumerate(zip(jobs, results, strict=True)):
        free = np.flatnonzero(job.plan.sentence == FREE)
        assert len(free) == (11 if index == 1 else 16)
        wanted = mean_log_p(lumina, prompts[index], result.ids, free)
        alone = mean_log_p(lumina, np.array(before, np.int32), result.ids, free)
        np.testing.assert_allclose(prompted[index], wanted, atol=1e-4)
        np.testing.assert_allclose(unprompted[index], alone, atol=1e-4)
