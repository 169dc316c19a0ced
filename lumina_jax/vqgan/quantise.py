"""Vector quantisation: the nearest code, and a codebook that follows the encoder by moving averages.

The distance is VQ-VAE's (arXiv 1711.00937) as in taming-transformers; the moving averages are its appendix A.1,
with codes that fall out of use re-seeded from the batch so that none stays dead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lumina_jax.dims import Array, Float, Int, PRNGKeyArray, typed

HIGHEST = jax.lax.Precision.HIGHEST


class Codebook(NamedTuple):
    """Moving averages of what each code was used for; the embedding is sums / counts."""

    counts: Array  # [M] encodings per step
    sums: Array  # [M, E] of those encodings


@typed
def normalise(vectors: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """Scale each vector to length 1."""
    squares = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * jax.lax.rsqrt(squares + 1e-12)


@typed
def nearest_codes(
    encodings: Float[Array, "*B E"], embedding: Float[Array, "M E"]
) -> Int[Array, "*B"]:
    """Index of the nearest row of `embedding`, the first one on ties, in float32."""
    encodings = encodings.astype(jnp.float32)
    embedding = embedding.astype(jnp.float32)
    squares = jnp.square(encodings).sum(-1, keepdims=True) + jnp.square(embedding).sum(-1)
    products = jnp.einsum("...E,ME->...M", encodings, embedding, precision=HIGHEST)
    return jnp.argmin(squares - 2 * products, axis=-1).astype(jnp.int32)


def init_codebook(num_codes: int, code_width: int) -> Codebook:
    """Averages before the first step: nothing used, so every code is seeded from the first batch."""
    return Codebook(jnp.zeros(num_codes), jnp.zeros((num_codes, code_width)))


def codebook_of(embedding: Array) -> Codebook:
    """Averages that give `embedding` [M, E], every code used once a step: how training goes on from weights."""
    return Codebook(jnp.ones(embedding.shape[0]), embedding)


@typed
def update_codebook(
    codebook: Codebook,
    encodings: Float[Array, "R E"],
    codes: Int[Array, "R"],
    key: PRNGKeyArray,
    *,
    decay: float,
    restart_below: float,
) -> tuple[Codebook, Float[Array, "M E"], Float[Array, "M"]]:
    """Move the averages towards a batch and re-seed unused codes with encodings drawn from it.

    A code is unused when its count is below `restart_below` times the mean count; it starts again
    with the mean count, so it has time to be chosen. Sums run over the whole (global) batch.

    Returns the averages, the embedding they give, and a mask that is 1 where a code was re-seeded.
    """
    num_codes = codebook.counts.shape[0]
    chosen = jax.nn.one_hot(codes, num_codes, dtype=jnp.float32)
    counts = decay * codebook.counts + (1 - decay) * chosen.sum(0)
    sums = jnp.einsum("RM,RE->ME", chosen, encodings, precision=HIGHEST)
    sums = decay * codebook.sums + (1 - decay) * sums
    mean_count = counts.mean()
    unused = counts < restart_below * mean_count
    seeds = encodings[jax.random.randint(key, (num_codes,), 0, encodings.shape[0])]
    counts = jnp.where(unused, mean_count, counts)
    sums = jnp.where(unused[:, None], mean_count * seeds, sums)
    embedding = sums / jnp.maximum(counts, 1e-12)[:, None]
    return Codebook(counts, sums), embedding, unused.astype(jnp.float32)


@typed
def perplexity(codes: Int[Array, "R"], num_codes: int) -> Float[Array, ""]:
    """Exponential of the entropy of the codes' frequencies: how many codes a batch really uses."""
    shares = jnp.zeros(num_codes).at[codes].add(1.0) / codes.shape[0]
    return jnp.exp(-jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-12))))
