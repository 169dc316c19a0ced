"""Second guesses beside the window: a comb of single tokens, each an alternative to one guess near the window's start.

A window ends where a guess proves wrong. The right token is then known, and often one of the likeliest alternatives
to that guess. Where such an alternative went through the model beside the window, what follows it is known as well, and
the pass decides one token more. Branch k stands in the place of the guess at depth d_k (1 is the first guess) and sees
the cache, the window before that guess, and itself. Its keys and values wait in a slot beyond the window until they
count.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lumina_jax.dims import Array
from lumina_jax.ops.cache import Cache, Scatter

NONE = -1  # in the place of a code: no alternative is known


class Hit(NamedTuple):
    """Whether a branch stood in the place of the first wrong guess with the right token, and which."""

    found: Array  # Bool[B]
    index: Array  # Int[B]


def scattered(
    start: Array, window: int, depths: tuple[int, ...], num_slots: int
) -> tuple[Array, Scatter]:
    """RoPE positions [rows, W + K], and slots and sight, of a window whose first token has position start[row]."""
    chain, depth = jnp.arange(window), jnp.array(depths)
    offsets = jnp.concatenate([chain, depth])
    slots = start[:, None] + jnp.concatenate([chain, window + jnp.arange(len(depths))])
    last_seen = start[:, None] + jnp.concatenate([chain, depth - 1])
    every = jnp.arange(num_slots)
    seen = (every <= last_seen[..., None]) | (every == slots[..., None])
    return start[:, None] + offsets, Scatter(slots, seen)


def find_hit(right: Array, decided: Array, codes: Array, depths: tuple[int, ...]) -> Hit:
    """Of branches Int[B, K] of codes: is one at depth decided[b], where the right code is right[b]?"""
    hits = (codes == right[:, None]) & (jnp.array(depths) == decided[:, None])
    return Hit(hits.any(axis=1), jnp.argmax(hits, axis=1))


def adopt(cache: Cache, source: Array, target: Array) -> Cache:
    """The cache with slot source[row] of each row copied to target[row]."""

    def copy(slots: Array) -> Array:
        def row(slots: Array, source: Array, target: Array) -> Array:
            token = jax.lax.dynamic_slice_in_dim(slots, source, 1, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(slots, token, target, axis=1)

        return jax.vmap(row)(slots, source, target)

    keys, values = jax.tree.map(copy, (cache.keys, cache.values))
    return cache._replace(keys=keys, values=values)


def alternatives(scores: Array, codes: Array, decided: Array, depths: tuple[int, ...]) -> Array:
    """The branches of the next window, Int[B, K]: at each depth the best codes but the guess itself.

    `scores` Float[B, W, M] and `codes` Int[B, W] of this window; the next begins decided[b] tokens later.
    """
    window, num_codes = scores.shape[1:]
    found: dict[int, Array] = {}
    for depth in sorted(set(depths)):
        index = (decided + depth - 1)[:, None]
        inside = index < window
        index = jnp.minimum(index, window - 1)
        row = jnp.take_along_axis(scores, index[..., None], axis=1)[:, 0]
        guess = jnp.take_along_axis(codes, index, axis=1)
        row = jnp.where(jnp.arange(num_codes) == guess, -jnp.inf, row)
        best, order = jax.lax.top_k(row, depths.count(depth))
        found[depth] = jnp.where(inside & (best > -jnp.inf), order, NONE)
    ranks = [depths[:place].count(depth) for place, depth in enumerate(depths)]
    return jnp.stack(
        [found[depth][:, rank] for depth, rank in zip(depths, ranks, strict=True)], axis=1
    )
