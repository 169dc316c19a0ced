"""Next-token cross-entropy and the z-loss on the logits' normaliser (arXiv 2408.02657, 2.2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lumina_jax.dims import Array, Float, Int, typed

NOT_PREDICTED = -100


class TokenLosses(NamedTuple):
    """Means over predicted positions, and how many there were."""

    cross_entropy: Array  # nats per predicted token
    z_loss: Array  # mean logsumexp(logits)^2, unweighted
    num_predicted: Array  # int32


@typed
def shift_labels(
    labels: Int[Array, "B S"], segment_ids: Int[Array, "B S"] | None = None
) -> Int[Array, "B S"]:
    """Labels moved under the position that predicts them; never across a segment's end.

    Worked example: [-100, 7, 8, 9] becomes [7, 8, 9, -100].
    """
    nothing = jnp.full_like(labels[:, :1], NOT_PREDICTED)
    shifted = jnp.concatenate([labels[:, 1:], nothing], axis=1)
    if segment_ids is None:
        return shifted
    following = jnp.concatenate([segment_ids[:, 1:], segment_ids[:, -1:]], axis=1)
    return jnp.where(following == segment_ids, shifted, NOT_PREDICTED)


@typed
def cross_entropy_and_z(logits: Float[Array, "B S V"], labels: Int[Array, "B S"]) -> TokenLosses:
    """Losses of `logits` against already shifted `labels`; negative labels are not predicted."""
    return _means(*_sums(logits, labels))


@typed
def loss_from_hidden(
    hidden: Float[Array, "B S D"], head: Float[Array, "V D"], labels: Int[Array, "B S"], chunk: int
) -> TokenLosses:
    """`cross_entropy_and_z` of hidden @ head.T, `chunk` positions at a time, logits recomputed going back.

    Needs [B, chunk, V] floats instead of [B, S, V]: at V = 65536 and S = 4096 a sequence saves 1 GiB.
    """
    num_chunks = -(-hidden.shape[1] // chunk)
    padding = num_chunks * chunk - hidden.shape[1]
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    labels = jnp.pad(labels, ((0, 0), (0, padding)), constant_values=NOT_PREDICTED)

    @jax.checkpoint
    def add_chunk(sums: tuple[Array, Array, Array], index: Array) -> tuple[tuple, None]:
        here = lax.dynamic_slice_in_dim(hidden, index * chunk, chunk, axis=1)
        wanted = lax.dynamic_slice_in_dim(labels, index * chunk, chunk, axis=1)
        logits = jnp.einsum("BSD,VD->BSV", here, head, preferred_element_type=jnp.float32)
        new = _sums(logits, wanted)
        return (sums[0] + new[0], sums[1] + new[1], sums[2] + new[2]), None

    zeros = (jnp.float32(0), jnp.float32(0), jnp.int32(0))
    sums, _ = lax.scan(add_chunk, zeros, jnp.arange(num_chunks))
    return _means(*sums)


def _sums(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Summed cross-entropy, summed squared normaliser and count over predicted positions."""
    predicted = labels >= 0
    normaliser = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    # A comparison instead of a gather: it fuses, and stays local where V is sharded.
    chosen = jnp.arange(logits.shape[-1]) == labels[..., None]
    label_logit = jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1)
    cross_entropy = jnp.sum(jnp.where(predicted, normaliser - label_logit, 0.0))
    z_loss = jnp.sum(jnp.where(predicted, normaliser**2, 0.0))
    return cross_entropy, z_loss, jnp.sum(predicted, dtype=jnp.int32)


def _means(cross_entropy: Array, z_loss: Array, num_predicted: Array) -> TokenLosses:
    """Sums over counts; zero where nothing is predicted."""
    count = jnp.maximum(num_predicted, 1)
    return TokenLosses(cross_entropy / count, z_loss / count, num_predicted)
