"""Classifier-free guidance with all streams of a request in one batch.

Two streams (arXiv 2408.02657, App. F): the image with its prompt, and the same image without: a sequence that begins
at the start-of-image token and counts its own positions from 0, as in training with dropped context. Meta's Chameleon
has a third between them, which keeps the prompt's images and drops its text. Row R b + k is stream k of request b.
A negative prompt stands in the last stream, in place of nothing: guidance moves away from it.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from lumina_jax.dims import Array, Float, Int, typed
from lumina_jax.sampling.grammar import ImagePlan
from lumina_jax.unirep.image_tokens import images_alone
from lumina_jax.unirep.vocab import Vocab


def stream_contexts(
    prompt_ids: np.ndarray,
    plan: ImagePlan,
    vocab: Vocab,
    num_streams: int,
    negative_ids: np.ndarray | None = None,
) -> list[np.ndarray]:
    """What precedes the first drawn code in each of 1 to 3 streams, int32, from the whole prompt to none of it.

    With the released ids, [0, make, it, blue, 8197 … 8196, 8710] in front of an image of Chameleon's layout:
    [0, make, it, blue, 8197 … 8196, 8710, 8197], [0, 8197 … 8196, 8197] and [0, 8197].
    """
    contexts = [np.concatenate([prompt_ids, plan.lead])]
    if num_streams > 2:
        contexts.append(np.concatenate([images_alone(prompt_ids, vocab), plan.lead]))
    if num_streams > 1:
        unprompted = np.array(plan.unprompted)
        if negative_ids is not None:
            unprompted = np.concatenate([negative_ids, plan.lead])
        contexts.append(unprompted)
    return [context.astype(np.int32) for context in contexts]


def scheduled_scales(knots: Sequence[float], plan: ImagePlan) -> np.ndarray:
    """float32[tokens of the sentence]: the scale of each code's row, by knots from the first row to the last.

    Linear between knots, which lie evenly: (6, 2) over three rows is 6, 4, 2. As many knots as rows are one each.
    """
    num_rows, num_columns = plan.shape
    rows = np.interp(np.linspace(0, 1, num_rows), np.linspace(0, 1, len(knots)), knots)
    scales = np.full(len(plan.sentence), knots[0], np.float32)
    scales[plan.code_places] = np.repeat(rows, num_columns)
    return scales


@typed
def guide(
    streams: Sequence[Float[Array, "B V"]], scales: Float[Array, "B steps"]
) -> Float[Array, "B V"]:
    """Raw logits of the streams joined in float32, from the least prompted one upwards.

    Two streams (full, none): `n + s (f - n)`; s = 1 is no guidance (the original code's meaning of s).
    Three (full, images, none): `n + s_image (i - n) + s_text (f - i)`, with scales (s_text, s_image) [Meta].
    """
    streams = [stream.astype(jnp.float32) for stream in streams]
    guided = streams[-1]
    for step in reversed(range(len(streams) - 1)):
        guided = guided + scales[:, step, None] * (streams[step] - streams[step + 1])
    return guided


@typed
def guide_rows(
    logits: Float[Array, "rows V"], scales: Float[Array, "B steps"]
) -> Float[Array, "B V"]:
    """The requests' guided logits out of the batch's rows, R = steps + 1 for each."""
    num_requests, num_steps = scales.shape
    streams = logits.reshape(num_requests, num_steps + 1, -1)
    return guide([streams[:, stream] for stream in range(num_steps + 1)], scales)


@typed
def to_rows(ids: Int[Array, "B ..."], num_streams: int) -> Int[Array, "rows ..."]:
    """Give each request's tokens to all of its rows."""
    return jnp.repeat(ids, num_streams, axis=0)
