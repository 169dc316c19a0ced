"""The plain decoder: one code a forward pass, one compiled dispatch a row of the image.

Tokens that the layout fixes are never drawn and never cost a pass of their own: a row starts with the window
[last code, line end] (the first with the last two tokens of the prompt), so an image of P x Q codes takes P x Q
passes, and given codes before the first drawn one, which are part of the context, take none. The program depends on
the batch, the cache and the model only: sizes and settings are run-time values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.config import SampleConfig, TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.chameleon import forward, hidden_states
from lumina_jax.ops.cache import Cache, rewind
from lumina_jax.sampling.batch import (
    SLOT_BUCKET,
    DrawnRow,
    Job,
    Network,
    padded_count,
    policy_of,
    round_up,
)
from lumina_jax.sampling.grammar import ImagePlan
from lumina_jax.sampling.guidance import guide_rows, to_rows
from lumina_jax.sampling.placement import constrain_cache, sharded_cache
from lumina_jax.sampling.policy import Policy, draw, scales_at
from lumina_jax.sharding import Layout, place_rows
from lumina_jax.unirep.grid import FREE

MAX_PADDING = 256  # how much `padded_length` adds at most
WINDOW = 2  # tokens a run of codes starts from: one not yet in the cache, one fixed by the layout


class Program(NamedTuple):
    """What a compiled run of codes depends on besides the shapes of its arrays."""

    transformer: TransformerConfig
    codes: tuple[int, int]  # (first id, how many): the rows that the head has left
    max_columns: int  # longest run of codes, with room to spare
    layout: Layout | None = None


class Shape(NamedTuple):
    """The padded sizes that all batches of a call share, so that they share compiled programs."""

    num_slots: int  # T
    prefill_length: int  # contexts without their last tokens are padded to this


@dataclass(frozen=True, eq=False)
class Batch:
    """Requests of one image size and one length of their leads, ready to be drawn."""

    contexts: list[
        np.ndarray
    ]  # every row's tokens up to the first drawn code; as many rows a request as it has streams
    plan: ImagePlan
    policy: Policy  # of the B requests
    shape: Shape
    settings: SampleConfig  # of the first request: what all of a batch share


DrawRows = Callable[[Network, Batch], Iterator[Array]]


def decode(
    network: Network,
    jobs: Sequence[Job],
    limit: int,
    draw_rows: DrawRows | None = None,
    count_passes: Callable[[Job], int] | None = None,
) -> Iterator[DrawnRow]:
    """Draw jobs; those of one image size, and of one length of what is given of it, share batches.

    Another decoder of such batches gives its own `draw_rows` in place of `draw_runs`, and tells its passes.

    No code may be given after the first drawn one (`ImagePlan.scattered`).
    """
    shape = _shared_shape(jobs)

    def size(job: Job) -> tuple[tuple[int, int], int]:
        return job.plan.shape, job.plan.span[0]

    for _, group in groupby(sorted(jobs, key=size), key=size):
        members = list(group)
        for first in range(0, len(members), limit):
            runs = draw_rows or draw_runs
            passes = (count_passes or _count_passes)(members[0])
            yield from _draw_batch(network, members[first : first + limit], shape, runs, passes)


def draw_runs(network: Network, batch: Batch) -> Iterator[Array]:
    """Yield every free run of the image, top to bottom: Int[B, >= Q] codes, of which the run's length is valid.

    What is yielded may still be computing: read it one run late.
    """
    plan = batch.plan
    longest = max(stop - start for start, stop in plan.runs)
    program = Program(network.config, network.codes, round_up(longest, 128), network.layout)
    cache, window = prefill(network, batch)
    for start, stop in plan.free_runs:
        place = jnp.array([start, stop - start, plan.line_end_id], jnp.int32)
        cache, window, drawn = draw_run(network.params, cache, window, place, batch.policy, program)
        yield drawn


def inference_config(config: TransformerConfig) -> TransformerConfig:
    """The config without what only training needs."""
    return replace(config, scan_layers=False, remat="none", dropout=0.0, matmul_dtype="")


def padded_length(length: int) -> int:
    """The bucket a prompt length falls into: a power of two from 32 to 256, then multiples of 256."""
    return max(32, 1 << (length - 1).bit_length()) if length <= 256 else -(-length // 256) * 256


def prefill(network: Network, batch: Batch) -> tuple[Cache, Array]:
    """The cache of all contexts but their last WINDOW tokens, and those: Int[rows, WINDOW]."""
    cache, _ = read_contexts(network, batch.contexts, batch.shape, WINDOW)
    return cache, jnp.array([context[-WINDOW:] for context in batch.contexts], jnp.int32)


def read_contexts(
    network: Network, contexts: Sequence[np.ndarray], shape: Shape, num_left: int
) -> tuple[Cache, np.ndarray]:
    """The cache of all contexts but their last `num_left` tokens, and how many those are, int32[rows].

    Equal contexts are read once. They are padded on the right, and the cache is rewound to each row's own length.
    """
    keys = [context.tobytes() for context in contexts]
    unique = list(dict.fromkeys(keys))
    num_rows = padded_count(len(unique), network.layout)
    if num_rows >= len(keys):
        unique, num_rows = keys, len(keys)
    by_key = dict(zip(keys, contexts, strict=True))
    padded = np.zeros((num_rows, shape.prefill_length), np.int32)
    lengths = np.zeros(num_rows, np.int32)
    for row, key in enumerate(unique):
        read = by_key[key][:-num_left]
        padded[row, : len(read)], lengths[row] = read, len(read)
    place = shape.num_slots, network.layout
    cache = fill_cache(network.params, padded, lengths, network.config, *place)
    if num_rows < len(keys):
        index = np.array([unique.index(key) for key in keys], np.int32)
        cache, lengths = _rows_of(cache, index, network.layout), lengths[index]
    return cache, lengths


@partial(jax.jit, static_argnames=("program",), donate_argnames=("cache",))
def draw_run(
    params: Any, cache: Cache, window: Array, place: Array, policy: Policy, program: Program
) -> tuple[Cache, Array, Array]:
    """Draw one run of codes after `window`, Int[rows, WINDOW]; `params` are those of `with_code_head`.

    `place` = (index of the run's first token in the image sentence, length of the run, id that follows it). Returns the
    cache (which lacks the run's last code), the next window [last code, that id], and Int[B, max_columns] codes.
    """
    first_index, num_codes, next_id = place
    first_code_id, layout = program.codes[0], program.layout

    def draw_next(cache: Cache, ids: Array, column: Array) -> tuple[Cache, Array]:
        logits, grown = forward(params, program.transformer, ids, cache=cache, layout=layout)
        assert grown is not None
        place = first_index + column
        # Rows come together here, once: the draw reads all codes of a row many times.
        logits = guide_rows(place_rows(logits[:, -1], layout), scales_at(policy, place))
        return grown, draw(logits, policy, place)

    def step(column: Array, carry: tuple) -> tuple:
        cache, last, drawn = carry
        ids = to_rows(last + first_code_id, policy.num_streams)[:, None]
        cache, last = draw_next(cache, ids, column)
        return cache, last, drawn.at[:, column].set(last)

    cache, last = draw_next(cache, window, jnp.int32(0))
    drawn = jnp.zeros((last.shape[0], program.max_columns), jnp.int32).at[:, 0].set(last)
    cache, last, drawn = jax.lax.fori_loop(1, num_codes, step, (cache, last, drawn))
    rows = to_rows(last + first_code_id, policy.num_streams)
    return cache, jnp.stack([rows, jnp.full_like(rows, next_id)], axis=1), drawn


def _shared_shape(jobs: Sequence[Job]) -> Shape:
    longest = max(job.num_context_tokens for job in jobs) - WINDOW
    prefill_length = padded_length(longest)
    total = max(job.num_tokens for job in jobs)
    return Shape(round_up(max(total, prefill_length), SLOT_BUCKET), prefill_length)


def _count_passes(job: Job) -> int:
    return int((job.plan.sentence == FREE).sum())


def _draw_batch(
    network: Network, jobs: Sequence[Job], shape: Shape, draw_rows: DrawRows, passes: int
) -> Iterator[DrawnRow]:
    """Draw jobs of one size in `passes` each, filled up with copies of the first."""
    filled = [*jobs, *[jobs[0]] * (padded_count(len(jobs), network.layout) - len(jobs))]
    contexts = [context for job in filled for context in job.contexts]
    policy = policy_of(filled, shape.num_slots)
    plan = jobs[0].plan
    num_given = len(plan.runs) - len(plan.free_runs)  # runs
    indices = tuple(job.index for job in jobs)

    def finished(row_index: int, run: Array | None = None) -> DrawnRow:
        place = slice(*plan.runs[row_index])
        codes = np.stack([job.plan.sentence[place] for job in jobs]) - network.codes[0]
        if run is not None:
            free = plan.sentence[place] == FREE
            codes[:, free] = np.asarray(run)[: len(jobs), : free.sum()]
        return DrawnRow(
            indices, row_index, codes, passes if row_index + 1 == len(plan.runs) else None
        )

    for row_index in range(num_given):
        yield finished(row_index)
    waiting = None
    batch = Batch(contexts, plan, policy, shape, jobs[0].settings)
    for row_index, run in enumerate(draw_rows(network, batch), num_given):
        # One run late: the next one is already under way while this one travels to the host.
        if waiting is not None:
            yield finished(*waiting)
        waiting = row_index, run
    assert waiting is not None
    yield finished(*waiting)


@partial(jax.jit, static_argnames=("layout",))
def _rows_of(cache: Cache, index: Array, layout: Layout | None) -> Cache:
    """The rows `index` of a cache, where its own rows were."""
    rows = jax.tree.map(lambda leaf: leaf[index], cache)
    return constrain_cache(rows, layout)


@partial(jax.jit, static_argnames=("config", "num_slots", "layout"))
def fill_cache(
    params: Any,
    ids: Array,
    lengths: Array,
    config: TransformerConfig,
    num_slots: int,
    layout: Layout | None = None,
) -> Cache:
    """A cache of `num_slots` that holds the first lengths[b] of ids[b], Int[rows, S]."""
    empty = sharded_cache(config, ids.shape[0], num_slots, layout)
    _, cache = hidden_states(params, config, ids, cache=empty, layout=layout)
    assert cache is not None
    return rewind(cache, lengths)
