"""How likely the model itself finds an image: the score by which the best of several draws is kept.

All codes go through the model at once (teacher forcing). Likelihoods are of the model as it is: without guidance, at
temperature 1, among all image codes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.chameleon import forward
from lumina_jax.sampling.batch import SLOT_BUCKET, Job, Network, padded_count, round_up
from lumina_jax.sharding import Layout
from lumina_jax.unirep.grid import FREE

BATCH_LOGITS = 2**26  # how many logits are held at once


def likelihoods(
    network: Network, jobs: Sequence[Job], ids: Sequence[np.ndarray], prompted: bool = True
) -> np.ndarray:
    """float32[B], nats: the mean over an image's drawn codes of log p(code | what precedes it).

    Given codes do not count. `ids`: image sentences, int32 from start to end token, one a job. `prompted`: after the
    prompt, else after none; the difference of both is the pointwise mutual information of prompt and image.
    """
    contexts = [job.contexts[0] if prompted else np.array(job.plan.unprompted) for job in jobs]
    spans = [slice(*job.plan.span) for job in jobs]
    texts = [sentence[span] for sentence, span in zip(ids, spans, strict=True)]
    free = [job.plan.sentence[span] == FREE for job, span in zip(jobs, spans, strict=True)]
    return log_probabilities(network, contexts, texts, free)


def log_probabilities(
    network: Network,
    contexts: Sequence[np.ndarray],
    texts: Sequence[np.ndarray],
    counted: Sequence[np.ndarray],
) -> np.ndarray:
    """float32[B]: the mean of log p(id | context, ids before it) over the `counted` ids of every text, all codes."""
    lengths = [len(context) + len(text) for context, text in zip(contexts, texts, strict=True)]
    num_tokens = round_up(max(lengths), SLOT_BUCKET)
    batch = max(1, min(len(contexts), BATCH_LOGITS // (num_tokens * network.codes[1])))
    batch = padded_count(1 << (batch.bit_length() - 1), network.layout)
    means = []
    for first in range(0, len(contexts), batch):
        ids = np.zeros((batch, num_tokens), np.int32)
        marks = np.zeros((batch, num_tokens), bool)
        rows = slice(first, first + batch)
        parts = zip(contexts[rows], texts[rows], counted[rows], strict=True)
        for row, (context, text, free) in enumerate(parts):
            ids[row, : len(context) + len(text)] = np.concatenate([context, text])
            marks[row, len(context) : len(context) + len(text)] = free
        args = network.params, jnp.asarray(ids), jnp.asarray(marks)
        static = network.config, network.codes, network.layout
        means.append(np.asarray(_mean_log_p(*args, *static)))
    return np.concatenate(means)[: len(contexts)]


@partial(jax.jit, static_argnames=("config", "codes", "layout"))
def _mean_log_p(
    params: Any,
    ids: Array,
    marks: Array,
    config: TransformerConfig,
    codes: tuple[int, int],
    layout: Layout | None,
) -> Array:
    """Float32[B] of ids and marks [B, S]; the first token of a row is never marked."""
    logits, _ = forward(params, config, ids[:, :-1], layout=layout)
    targets = jnp.clip(ids[:, 1:] - codes[0], 0, codes[1] - 1)[..., None]
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), targets, axis=-1)[..., 0]
    counted = marks[:, 1:]
    return jnp.where(counted, log_p, 0).sum(axis=1) / jnp.maximum(counted.sum(axis=1), 1)
