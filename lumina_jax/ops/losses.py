"""Next-token cross-entropy and the z-loss on the logits' normaliser (arXiv 2408.02657, 2.2), token by token."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lumina_jax.dims import Array, Float, Int, typed
from lumina_jax.ops.products import product

NOT_PREDICTED = -100
Place = Callable[[Array, str, str], Array]  # (array, its letters, role): the array where it belongs


def unplaced(x: Array, letters: str, role: str) -> Array:
    """The `Place` of a single device."""
    return x


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
    normaliser = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    # A comparison instead of a gather: it fuses, and stays local where V is sharded.
    chosen = jnp.arange(logits.shape[-1]) == labels[..., None]
    label_logit = jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1)
    return _losses(normaliser, label_logit, labels)


@typed
def token_losses_from_hidden(
    hidden: Float[Array, "B S D"],
    head: Float[Array, "V D"],
    labels: Int[Array, "B S"],
    chunk: int,
    *,
    split: int = 1,
    place: Place = unplaced,
) -> TokenLosses:
    """`token_losses` of hidden @ head.T by `chunk` entries of the vocabulary at a time, recomputed going back.

    Needs [B, S, split * chunk] floats instead of [B, S, V]: at V = 65536 and S = 4096 a sequence saves 1 GiB. On a mesh
    whose devices hold `split` parts of V a chunk has as many entries of each; `place` keeps arrays where their letters
    say. Every row of the head is gathered once a pass and its gradient scattered once; no device ever holds more of
    either than a chunk.
    """
    vocab_size, part = head.shape[0], head.shape[0] // split
    num_chunks = -(-part // chunk)
    padding = num_chunks * chunk - part
    by_part = jnp.pad(head.reshape(split, part, -1), ((0, 0), (0, padding), (0, 0)))
    tables = by_part.reshape(split, num_chunks, chunk, -1).swapaxes(0, 1)
    tables = place(tables.reshape(num_chunks, split * chunk, -1), "L V D", "weights")
    within = jnp.arange(num_chunks * chunk)
    ids = jnp.where(within < part, within + part * jnp.arange(split)[:, None], vocab_size)
    ids = ids.reshape(split, num_chunks, chunk).swapaxes(0, 1).reshape(num_chunks, split * chunk)
    wide = hidden.astype(jnp.float32)  # so that its gradient is summed over chunks in float32

    @jax.checkpoint
    def add(sums: tuple[Array, ...], chunk_of: tuple[Array, Array]) -> tuple[Any, None]:
        largest, total, label_logit = sums
        table, entries = chunk_of
        table = place(table.astype(hidden.dtype), "V D", "gathered")
        logits = product("BSD,VD->BSV", wide.astype(hidden.dtype), table, jnp.float32)
        logits = place(jnp.where(entries < vocab_size, logits, -jnp.inf), "B S V", "activations")
        new = lax.stop_gradient(jnp.maximum(largest, logits.max(-1)))
        total = total * jnp.exp(largest - new) + jnp.exp(logits - new[..., None]).sum(-1)
        label_logit += jnp.where(entries == labels[..., None], logits, 0.0).sum(-1)
        return (new, total, label_logit), None

    zeros = jnp.zeros(labels.shape)
    start = (jnp.full(labels.shape, -jnp.inf), zeros, zeros)
    (largest, total, label_logit), _ = lax.scan(add, start, (tables, ids))
    return _losses(largest + jnp.log(total), label_logit, labels)


@typed
def cross_entropy_and_z(logits: Float[Array, "B S V"], labels: Int[Array, "B S"]) -> MeanLosses:
    """The means of `token_losses`; zero where nothing is predicted."""
    return _means(token_losses(logits, labels), labels)


@typed
def loss_from_hidden(
    hidden: Float[Array, "B S D"], head: Float[Array, "V D"], labels: Int[Array, "B S"], chunk: int
) -> MeanLosses:
    """The means of `token_losses_from_hidden`."""
    return _means(token_losses_from_hidden(hidden, head, labels, chunk), labels)


def _losses(normaliser: Array, label_logit: Array, labels: Array) -> TokenLosses:
    predicted = labels >= 0
    cross_entropy = jnp.where(predicted, normaliser - label_logit, 0.0)
    return TokenLosses(cross_entropy, jnp.where(predicted, normaliser**2, 0.0))


def _means(losses: TokenLosses, labels: Array) -> MeanLosses:
    num_predicted = jnp.sum(labels >= 0, dtype=jnp.int32)
    count = jnp.maximum(num_predicted, 1)
    cross_entropy, z_loss = (jnp.sum(by_token) / count for by_token in losses)
    return MeanLosses(cross_entropy, z_loss, num_predicted)
