"""How a token is drawn from logits: the k best, temperature, nucleus, min-p, Gumbel noise tied to (seed, token index).

Status-aware control (arXiv 2408.02657, App. F): images take a wide top-k, text a narrow one. Every setting is
a per-row array, so neither a new value nor a neighbour with another value compiles anything. What most batches do
without (a nucleus, min-p, a schedule of guidance) is None there and has programs of its own.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.config import SampleConfig
from lumina_jax.dims import Array, Bool, Float, Int, typed

MAX_SEED = 2**31 - 1


class Policy(NamedTuple):
    """The draw of each of B requests."""

    seed: Array  # Int[B]
    temperature: Array  # Float[B], > 0
    top_k: Array  # Int[B]; 1 is greedy, the number of logits or more keeps all
    guidance: Array  # Float[B, R-1] for R streams; read by `guidance.guide`
    top_p: Array | None = None  # Float[B], > 0; 1 keeps all; None: 1 for all, compiled away
    min_p: Array | None = None  # Float[B], < 1; 0 keeps all; None: 0 for all, compiled away
    # Float[B, N]: `guidance[:, 0]` at token n of the image sentence; None: the same at all, compiled away
    schedule: Array | None = None

    @property
    def num_streams(self) -> int:
        """R, the rows of a batch that one request takes."""
        return self.guidance.shape[1] + 1


def make_policy(
    settings: Sequence[SampleConfig],
    seeds: Sequence[int],
    text: bool = False,
    schedule: np.ndarray | None = None,
    whole: bool = False,
) -> Policy:
    """The policy of requests with equally many streams; `text` draws as outside of images.

    `whole`: with every array, needed or not, so that all such requests share one program.
    """
    top_k = [each.text_top_k if text else each.image_top_k for each in settings]
    top_p = [1.0 if text else each.image_top_p for each in settings]
    min_p = [0.0 if text else each.image_min_p for each in settings]
    return Policy(
        seed=jnp.array(seeds, jnp.int32),
        temperature=jnp.array([each.temperature for each in settings], jnp.float32),
        top_k=jnp.array(top_k, jnp.int32),
        guidance=jnp.array([each.guidance_scales for each in settings], jnp.float32),
        top_p=None if min(top_p) == 1 and not whole else jnp.array(top_p, jnp.float32),
        min_p=None if max(min_p) == 0 and not whole else jnp.array(min_p, jnp.float32),
        schedule=None if schedule is None else jnp.asarray(schedule, jnp.float32),
    )


@typed
def scales_at(
    policy: Policy, token_index: Int[Array, ""] | Int[Array, "B"]
) -> Float[Array, "B steps"]:
    """The scales of guidance for one token a row, at its place in the image sentence."""
    if policy.schedule is None:
        return policy.guidance
    places = jnp.broadcast_to(token_index, policy.seed.shape)[:, None]
    text = jnp.take_along_axis(policy.schedule, places, axis=1)
    return jnp.concatenate([text, policy.guidance[:, 1:]], axis=1)


@typed
def draw(
    logits: Float[Array, "B V"], policy: Policy, token_index: Int[Array, ""] | Int[Array, "B"]
) -> Int[Array, "B"]:
    """Draw one index a row: categorical over the nucleus of the k best logits / temperature, by Gumbel argmax.

    Row b's noise depends on `policy.seed[b]` and `token_index` (the place of the token in its sentence) only,
    so a row draws the same whatever its neighbours, and the same however the loop around it is cut up.
    """
    noise = gumbel_noise(policy.seed, token_index, logits.shape[-1])
    return jnp.argmax(log_weights(logits, policy) + noise, axis=-1)


@typed
def log_weights(logits: Float[Array, "B V"], policy: Policy) -> Float[Array, "B V"]:
    """Logits / temperature of what a token is drawn from, -inf for all that the policy drops."""
    kept = keep_top_k(logits, policy.top_k)
    if policy.top_p is not None:
        kept = keep_top_p(logits, kept, policy.temperature, policy.top_p)
    if policy.min_p is not None:
        kept &= keep_min_p(logits, policy.temperature, policy.min_p)
    return jnp.where(kept, logits / policy.temperature[:, None], -jnp.inf)


@typed
def keep_top_k(logits: Float[Array, "B V"], top_k: Int[Array, "B"]) -> Bool[Array, "B V"]:
    """Mark exactly the `top_k` largest logits of each row; of equal ones the lower indices come first.

    >>> keep_top_k(jnp.array([[1.0, 3.0, 3.0, 0.0]]), jnp.array([1])).tolist()
    [[False, True, False, False]]
    """
    top_k = jnp.clip(top_k, 1, logits.shape[-1])[:, None]
    ordered = _ordered_bits(logits)
    least = _largest(lambda candidate: _row_sum(ordered >= candidate) >= top_k, top_k.shape)
    above, level = ordered > least, ordered == least
    num_level = top_k - _row_sum(above)
    return above | (level & (jnp.cumsum(level, axis=-1) <= num_level))


@typed
def keep_top_p(
    logits: Float[Array, "B V"],
    kept: Bool[Array, "B V"],
    temperature: Float[Array, "B"],
    top_p: Float[Array, "B"],
) -> Bool[Array, "B V"]:
    """Of the `kept`, mark the fewest, likeliest first, that have a share `top_p` of their probability at `temperature`.

    Of equal logits the lower indices come first; one is always marked, and top_p = 1 marks all. The weights are whole
    numbers, 2^30 for the likeliest, so their sums are exact: no order of summing and no neighbour changes them, and
    a higher threshold never has more above it. The lowest logit is therefore found as in `keep_top_k`, without a sort.

    >>> logits, kept = jnp.log(jnp.array([[0.2, 0.5, 0.2, 0.1]])), jnp.ones((1, 4), bool)
    >>> keep_top_p(logits, kept, jnp.ones(1), jnp.array([0.6])).tolist()
    [[True, True, False, False]]
    """
    top_p, best = top_p[:, None], jnp.where(kept, logits, -jnp.inf).max(axis=-1, keepdims=True)
    likely = jnp.exp((logits - best) / temperature[:, None])
    weights = jnp.where(kept, jnp.round(likely * 2**30), 0).astype(jnp.uint32)
    # A sum of 65536 weights needs more than 32 bits; the sums of their upper and lower 15 bits do not.
    upper, lower = weights >> 15, weights & (2**15 - 1)
    ordered = jnp.where(kept, _ordered_bits(logits), 0)

    def sums(chosen: Array) -> tuple[Array, Array]:
        return _row_sum(jnp.where(chosen, upper, 0)), _row_sum(jnp.where(chosen, lower, 0))

    wanted = jnp.maximum(top_p * _joined(*sums(kept)), 1)  # at least 1, so never none at all
    least = _largest(lambda candidate: _joined(*sums(ordered >= candidate)) >= wanted, wanted.shape)
    above, level = ordered > least, ordered == least
    upper_above, lower_above = sums(above)
    earlier = (jnp.cumsum(level, axis=-1) - level).astype(jnp.uint32)  # equals with a lower index
    before = _joined(upper_above + earlier * upper, lower_above + earlier * lower)
    return jnp.where(top_p < 1, above | (level & (before < wanted)), kept)


@typed
def keep_min_p(
    logits: Float[Array, "B V"], temperature: Float[Array, "B"], min_p: Float[Array, "B"]
) -> Bool[Array, "B V"]:
    """Mark what has at least `min_p` times the probability of the likeliest at `temperature` (arXiv 2407.01082).

    The likeliest is always marked, and min_p = 0 marks all.

    >>> logits = jnp.log(jnp.array([[0.2, 0.5, 0.2, 0.1]]))
    >>> keep_min_p(logits, jnp.ones(1), jnp.array([0.3])).tolist()
    [[True, True, True, False]]
    """
    best = logits.max(axis=-1, keepdims=True)
    return logits - best >= (temperature * jnp.log(min_p))[:, None]


@typed
def gumbel_noise(
    seed: Int[Array, "B"], token_index: Int[Array, ""] | Int[Array, "B"], num_logits: int
) -> Float[Array, "B V"]:
    """Standard Gumbel noise of one token a row: a pure function of (seed, token_index)."""
    token_index = jnp.broadcast_to(token_index, seed.shape)

    def row(seed: Array, index: Array) -> Array:
        return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), index), (num_logits,))

    return jax.vmap(row)(seed, token_index)


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The seed itself, and count - 1 others made of it: fewer candidates are the first of more.

    Neighbouring seeds share none of theirs, but by chance of one in two billion.
    """
    if not 0 <= seed <= MAX_SEED:  # whoever draws from it says so
        return [seed] * count
    made = [np.random.SeedSequence((seed, k)).generate_state(1)[0] for k in range(1, count)]
    return [seed, *(int(number) & MAX_SEED for number in made)]


def _ordered_bits(values: Array) -> Array:
    """Map float32 to uint32 in the same order, so that ranks can be found bit by bit."""
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    sign = jnp.uint32(0x80000000)
    unsigned = jax.lax.bitcast_convert_type(bits, jnp.uint32)
    return jnp.where(bits < 0, ~unsigned, unsigned | sign)


def _largest(enough: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
    """The largest uint32 of each row that is `enough`, one bit a pass: 32 passes, ten times faster than a sort of 8192.

    `enough` must hold for every number below one it holds for.
    """

    def set_bit(bit_index: Array, found: Array) -> Array:
        candidate = found | (jnp.uint32(1) << (31 - bit_index).astype(jnp.uint32))
        return jnp.where(enough(candidate), candidate, found)

    return jax.lax.fori_loop(0, 32, set_bit, jnp.zeros(shape, jnp.uint32))


def _row_sum(values: Array) -> Array:
    return values.sum(axis=-1, keepdims=True)


def _joined(upper: Array, lower: Array) -> Array:
    """2^15 upper + lower as float32, rounded in the same order as the exact sums, whatever was carried over."""
    upper, lower = upper + (lower >> 15), lower & (2**15 - 1)
    return upper.astype(jnp.float32) * 2**15 + lower.astype(jnp.float32)
