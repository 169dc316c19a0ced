"""How much of a window stands after a pass, and what is guessed beyond it: the rules of speculative Jacobi decoding.

A pass predicts every position of the window at once, from guesses in the places before it. What it predicts for a
position is the next guess there, so guesses settle from the left like a Jacobi iteration (arXiv 2410.01699).

"tied": a position's noise is a function of (seed, position) and the same in every pass. What follows right guesses is
therefore exactly what the sequential decoder draws: the tokens are the same, one for one.

"coupled": a guess d was drawn from a law q, and the pass knows the true law p given the guesses before it. Keep d with
probability min(1, p(d)/q(d)), else draw from the normalised positive part of p - q: the result has law p and is d as
often as any coupling allows. Done at every position of the window, not only up to the first change, it also renews
the guesses (speculative coupled decoding). Equal to the sequential decoder in distribution, not in tokens.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lumina_jax.dims import Array, Float, Int, typed
from lumina_jax.sampling.drafts import Proposal
from lumina_jax.sampling.guidance import guide_rows
from lumina_jax.sampling.policy import Policy, gumbel_noise, log_weights, scales_at

Accept = Literal["tied", "coupled"]


class Rule(NamedTuple):
    """How a window is used; static in every program."""

    accept: Accept
    window: int  # W >= 1; 1 draws token by token
    drafts: str  # a row of DRAFTS: first guesses for positions that enter the window
    branches: tuple[int, ...] = ()  # depths of second guesses: see `branches`


def spread(policy: Policy, window: int) -> Policy:
    """The policy of B W positions, W of each request."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, window, axis=0), policy)


@typed
def guide_window(
    logits: Float[Array, "rows W M"], at: Int[Array, "B W"], policy: Policy
) -> Float[Array, "B W M"]:
    """The guided logits of W tokens `at` of each request, out of its R rows."""
    window, num_codes = logits.shape[1:]
    streams = logits.reshape(-1, policy.num_streams, window, num_codes)
    rows = streams.swapaxes(1, 2).reshape(-1, num_codes)  # B, W, R
    scales = scales_at(spread(policy, window), at.reshape(-1))
    return guide_rows(rows, scales).reshape(-1, window, num_codes)


@typed
def draw_tied(
    logits: Float[Array, "B W M"], noise: Float[Array, "B W M"], policy: Policy
) -> tuple[Int[Array, "B W"], Float[Array, "B W M"]]:
    """What the sequential decoder would draw at every position, were all guesses right; and each code's score there."""
    num_rows, window, num_codes = logits.shape
    weights = log_weights(logits.reshape(-1, num_codes), spread(policy, window))
    scores = weights.reshape(num_rows, window, num_codes) + noise
    return jnp.argmax(scores, axis=-1), scores


@typed
def draw_coupled(
    logits: Float[Array, "B W M"],
    guess: Proposal,
    passes: Int[Array, "B"],
    at: Int[Array, "B W"],
    policy: Policy,
) -> Proposal:
    """A draw from every position's law that is coupled as closely as can be with the guess there."""
    num_rows, window, num_codes = logits.shape
    weights = log_weights(logits.reshape(-1, num_codes), spread(policy, window))
    law = jax.nn.softmax(weights, axis=-1).reshape(logits.shape)
    assert guess.law is not None
    threshold, noise = jax.vmap(_fresh_noise, in_axes=(0, 0, 0, None))(
        policy.seed, passes, at, num_codes
    )
    new, old = (
        jnp.take_along_axis(each, guess.codes[..., None], -1)[..., 0] for each in (law, guess.law)
    )
    kept = threshold * old < new
    rest = jnp.maximum(law - guess.law, 0)
    rest = jnp.where(rest.max(-1, keepdims=True) > 0, rest, law)  # equal laws up to rounding
    other = jnp.argmax(jnp.log(rest) + noise, axis=-1)
    return Proposal(jnp.where(kept, guess.codes, other), law)


def _fresh_noise(seed: Array, passes: Array, at: Array, num_codes: int) -> tuple[Array, Array]:
    """A uniform number and Gumbel noise for each position, new in every pass."""

    def position(index: Array) -> tuple[Array, Array]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), index), passes + 1)
        first, second = jax.random.split(key)
        return jax.random.uniform(first), jax.random.gumbel(second, (num_codes,))

    return jax.vmap(position)(at)


@typed
def positional_noise(
    seed: Int[Array, "B"], at: Int[Array, "B W"], num_codes: int
) -> Float[Array, "B W M"]:
    """The sequential decoder's noise for every position of a window."""
    window = at.shape[1]
    noise = gumbel_noise(jnp.repeat(seed, window), at.reshape(-1), num_codes)
    return noise.reshape(*at.shape, num_codes)


@typed
def count_decided(after: Int[Array, "B W"], guessed: Int[Array, "B W"]) -> Int[Array, "B"]:
    """How many tokens a pass decided: those equal to their guesses, and the one after them.

    >>> count_decided(jnp.array([[5, 6, 9, 8]]), jnp.array([[5, 6, 7, 8]])).tolist()
    [3]
    """
    right = (after == guessed)[:, :-1]
    return 1 + jnp.cumprod(right, axis=1).sum(axis=1).astype(jnp.int32)
