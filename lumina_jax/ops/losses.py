"""Next-token cross-entropy and the z-loss on the logits' normaliser (arXiv 2408.02657, 2.2), token by token."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lumina_jax.dims import Array, Float, Int, typed
from lumina_jax.ops.products import product

NOT_PREDICTED = -100


class TokenLosses(NamedTuple):
    """By position, float32[B, S]; 0 where nothing is predicted."""

    cross_entropy: Array  # nats
    squared_normaliser: Array  # logsumexp(logits)^2, whose mean is the z-loss


class MeanLosses(NamedTuple):
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
def token_losses(logits: Float[Array, "B S V"], labels: Int[Array, "B S"]) -> TokenLosses:
    """Losses of `logits` against already shifted `labels`; negative labels are not predicted."""
    predicted = labels >= 0
    normaliser = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    # A comparison instead of a gather: it fuses, and stays local where V is sharded.
    chosen = jnp.arange(logits.shape[-1]) == labels[..., None]
    label_logit = jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1)
    cross_entropy = jnp.where(predicted, normaliser - label_logit, 0.0)
    return TokenLosses(cross_entropy, jnp.where(predicted, normaliser**2, 0.0))


@typed
def token_losses_from_hidden(
    hidden: Float[Array, "B S D"], head: Any, labels: Int[Array, "B S"], chunk: int
) -> TokenLosses:
    """`token_losses` of hidden @ head.T, `chunk` positions at a time, logits recomputed going back.

    `head`: [V, D], an array or stored (`ops.products`). Needs [B, chunk, V] floats instead of [B, S, V]: at V = 65536
    and S = 4096 a sequence saves 1 GiB.
    """
    num_chunks = -(-hidden.shape[1] // chunk)
    padding = num_chunks * chunk - hidden.shape[1]
    padded = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    wanted = jnp.pad(labels, ((0, 0), (0, padding)), constant_values=NOT_PREDICTED)

    @jax.checkpoint
    def losses_of_chunk(_: None, index: Array) -> tuple[None, TokenLosses]:
        here = lax.dynamic_slice_in_dim(padded, index * chunk, chunk, axis=1)
        their = lax.dynamic_slice_in_dim(wanted, index * chunk, chunk, axis=1)
        return None, token_losses(product("BSD,VD->BSV", here, head, jnp.float32), their)

    _, found = lax.scan(losses_of_chunk, None, jnp.arange(num_chunks))
    rows = [jnp.moveaxis(by_chunk, 0, 1).reshape(wanted.shape) for by_chunk in found]
    return TokenLosses(*(by_row[:, : hidden.shape[1]] for by_row in rows))


@typed
def cross_entropy_and_z(logits: Float[Array, "B S V"], labels: Int[Array, "B S"]) -> MeanLosses:
    """The means of `token_losses`; zero where nothing is predicted."""
    return _means(token_losses(logits, labels), labels)


@typed
def loss_from_hidden(
    hidden: Float[Array, "B S D"], head: Any, labels: Int[Array, "B S"], chunk: int
) -> MeanLosses:
    """The means of `token_losses_from_hidden`."""
    return _means(token_losses_from_hidden(hidden, head, labels, chunk), labels)


def _means(losses: TokenLosses, labels: Array) -> MeanLosses:
    num_predicted = jnp.sum(labels >= 0, dtype=jnp.int32)
    count = jnp.maximum(num_predicted, 1)
    cross_entropy, z_loss = (jnp.sum(by_token) / count for by_token in losses)
    return MeanLosses(cross_entropy, z_loss, num_predicted)
