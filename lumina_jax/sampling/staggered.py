"""Rows of an image drawn side by side, each some codes behind the one above: lossy, for large images.

After `lag` codes of a row the next one begins, so P rows of Q codes take (P - 1) lag + Q passes in place of P Q. A code
is drawn from the whole of what exists by then, in its own row and those above: unlike in training, the right part of
the row above is missing. That changes the law of the image (zigzag and parallel Jacobi decoding do the same: arXiv
2412.04062), by how much docs/benchmarks.md tells. With lag = Q + 1 nothing is missing and the codes are those
of the sequential decoder.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.chameleon import forward
from lumina_jax.ops.cache import Cache, Scatter
from lumina_jax.sampling.batch import SENTENCE_BUCKET, Job, Network, round_up
from lumina_jax.sampling.guidance import to_rows
from lumina_jax.sampling.policy import Policy
from lumina_jax.sampling.rules import draw_tied, guide_window, positional_noise
from lumina_jax.sampling.sequential import Batch, read_contexts
from lumina_jax.sharding import Layout, place_rows

FRONT_BUCKET = 4  # rows of codes that are drawn at once are multiples of this


class Program(NamedTuple):
    """What a compiled stretch of passes depends on besides the shapes of its arrays."""

    transformer: TransformerConfig
    codes: tuple[int, int]
    front: int  # rows of codes that a pass draws at most
    layout: Layout | None


class Grid(NamedTuple):
    """Where codes stand in a sentence: row r, column c at token lead + r stride + c. All Int[]."""

    lead: Array
    stride: Array
    num_rows: Array
    num_columns: Array
    lag: Array


class Picture(NamedTuple):
    """Images on the way."""

    cache: Cache  # its last slot holds nothing
    base: Array  # Int[rows]: the cache slot of the sentence's first token
    ids: Array  # Int[B, N]: forced ids, and codes as they are drawn; the last token is none


def check(job: Job) -> None:
    """ValueError of one line for an image without line ends, or with given codes."""
    if len(job.plan.runs) < job.plan.shape[0]:
        raise ValueError(
            "decoder 'staggered': rows of this model's layout have no line ends to begin from; use another decoder"
        )
    if job.request.given is not None:
        raise ValueError("decoder 'staggered' draws whole images: with given codes use another one")


def count_passes(job: Job) -> int:
    """Forward passes of an image of P rows of Q codes: (P - 1) lag + Q."""
    num_rows, num_columns = job.plan.shape
    return (num_rows - 1) * job.settings.lag + num_columns


def draw_runs(network: Network, batch: Batch) -> Iterator[Array]:
    """Yield every run of the image, top to bottom: Int[B, Q] codes, which may still be computing."""
    plan, lag = batch.plan, batch.settings.lag
    num_rows, num_columns = plan.shape
    front = min(num_columns // lag + 1, num_rows)
    program = Program(network.config, network.codes, round_up(front, FRONT_BUCKET), network.layout)
    picture = _begin(network, batch)
    numbers = len(plan.lead), plan.stride, num_rows, num_columns, lag
    grid = Grid(*map(jnp.int32, numbers))
    done = 0
    for row_index, (start, stop) in enumerate(plan.runs):
        last = lag * row_index + num_columns
        span = jnp.array([done, last], jnp.int32)
        picture = draw_passes(network.params, picture, span, grid, batch.policy, program)
        yield picture.ids[:, start:stop] - network.codes[0]
        done = last


@partial(jax.jit, static_argnames=("program",), donate_argnames=("picture",))
def draw_passes(
    params: Any, picture: Picture, span: Array, grid: Grid, policy: Policy, program: Program
) -> Picture:
    """Passes span[0] to span[1], exclusive. In pass t row r predicts its column t - lag r."""

    def step(index: Array, picture: Picture) -> Picture:
        return one_pass(params, picture, index, grid, policy, program)

    return jax.lax.fori_loop(span[0], span[1], step, picture)


def one_pass(
    params: Any, picture: Picture, index: Array, grid: Grid, policy: Policy, program: Program
) -> Picture:
    """Feed the last token of every row on the front, and draw the code after it.

    A row's last code is fed as well, one pass after it was drawn: what comes after it is a line end.
    """
    lowest = jnp.minimum(index // grid.lag, grid.num_rows - 1)  # that has begun
    rows = lowest - jnp.arange(program.front)
    columns = index - grid.lag * rows
    active = (rows >= 0) & (rows < grid.num_rows) & (columns <= grid.num_columns)
    at = jnp.where(active, grid.lead + rows * grid.stride + columns, 1)
    ids = jnp.broadcast_to(picture.ids[:, at - 1], (len(picture.ids), program.front))

    num_slots = picture.cache.keys[0].shape[2]  # [B, K, T, H]
    positions = picture.base[:, None] + at - 1
    slots = jnp.where(active, positions, num_slots - 1)
    seen = _seen(picture.base, rows, index, grid, num_slots)
    logits, cache = forward(
        params,
        program.transformer,
        to_rows(ids, policy.num_streams),
        positions,
        cache=picture.cache,
        scatter=Scatter(slots, seen),
        layout=program.layout,
    )
    assert cache is not None
    codes = _draw(place_rows(logits, program.layout), at, policy)
    spare = picture.ids.shape[1] - 1
    target = jnp.where(active & (columns < grid.num_columns), at, spare)
    drawn = picture.ids.at[:, target].set(codes + program.codes[0])
    return picture._replace(cache=cache, ids=drawn)


def _draw(logits: Array, at: Array, policy: Policy) -> Array:
    """Int[B, F] codes from the logits [B R, F, M] of F tokens at `at`."""
    places = jnp.broadcast_to(at, (len(policy.seed), len(at)))
    guided = guide_window(logits, places, policy)
    noise = positional_noise(policy.seed, places, logits.shape[-1])
    return draw_tied(guided, noise, policy)[0]


def _seen(base: Array, rows: Array, index: Array, grid: Grid, num_slots: int) -> Array:
    """Bool[rows, F, T]: the context, and of each row of codes up to the own one what has been fed by pass `index`."""
    offset = jnp.arange(num_slots) - base[:, None] - (grid.lead - 1)
    row, fed = offset // grid.stride, offset % grid.stride
    written = fed <= index - grid.lag * row
    in_image = (row[:, None] <= rows[:, None]) & written[:, None]
    return (offset < 0)[:, None] | in_image


def _begin(network: Network, batch: Batch) -> Picture:
    """The cache of all contexts but their last token, and the sentences before anything is drawn."""
    plan = batch.plan
    cache, lengths = read_contexts(network, batch.contexts, batch.shape, 1)
    num_tokens = round_up(len(plan.sentence) + 1, SENTENCE_BUCKET)
    sentence = np.pad(plan.sentence, (0, num_tokens - len(plan.sentence)))
    ids = jnp.tile(sentence, (len(batch.policy.seed), 1)).astype(jnp.int32)
    return Picture(cache, jnp.asarray(lengths) + 1 - len(plan.lead), ids)
