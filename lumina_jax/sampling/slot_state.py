"""What a slot of a window decoder holds, and how a request comes into it.

A slot holds one request: its cache rows, its sentence (forced ids, drawn ids, guesses) and how much of that is decided.
`admit` reads a prompt, `share` copies what another slot has read, `halt` gives up.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.chameleon import hidden_states, logits_from_hidden
from lumina_jax.ops.cache import Cache
from lumina_jax.sampling.branches import NONE
from lumina_jax.sampling.guidance import guide_rows
from lumina_jax.sampling.placement import sharded_cache
from lumina_jax.sampling.policy import Policy, log_weights, scales_at
from lumina_jax.sampling.rules import Rule
from lumina_jax.sharding import Layout, batch_ways

CHUNK = 32  # tokens of a context that go through the model at once


class Program(NamedTuple):
    """What the compiled programs depend on besides the shapes of the state."""

    transformer: TransformerConfig
    codes: tuple[int, int]  # (first id, how many): the rows that the head has left
    rule: Rule
    layout: Layout | None = None


class Sentence(NamedTuple):
    """The image sentences of B slots, up to N tokens each. Tokens are counted from the first one of the sentence."""

    table: Array  # Int[B, N]: the forced ids, FREE where a code is drawn
    ids: Array  # Int[B, N]: what is decided, beyond it what is guessed
    place: Array  # Int[B]: how many tokens are decided
    known: Array  # Int[B]: how many are decided or guessed
    stop: Array  # Int[B]: where the last drawn code ends; an empty slot has place = stop
    stride: Array  # Int[B]: from a code to the one below it
    passes: Array  # Int[B]: forward passes taken


class State(NamedTuple):
    """B slots with R cache rows each."""

    cache: Cache  # of B R rows
    base: Array  # Int[B R]: the cache slot of the sentence's first token
    sentence: Sentence
    summary: Array  # Float[B R, D]: what the model makes of the last token of the context
    opening: Array  # Float[B, M]: log-weights of the first code, made of it
    branches: Array | None  # Int[B, K] codes, NONE where none is known
    # Float[B, W, M]: what the guesses at place … place + W - 1 were drawn from; "coupled" alone
    law: Array | None
    policy: Policy


class Arrival(NamedTuple):
    """One request on its way into a slot."""

    contexts: Array  # Int[R, C]: what precedes the image sentence and its first forced ids, padded on the right
    lengths: Array  # Int[R]: of which so many tokens are not padding
    base: Array  # Int[R]
    sentence: Sentence  # without the axis B
    policy: Policy  # without the axis B


def empty_state(program: Program, policy: Policy, num_slots: int, num_tokens: int) -> State:
    """B empty slots, whose policies (of B requests) are placeholders, with T cache slots and N tokens of sentence."""
    num_rows, num_streams = len(policy.seed), policy.num_streams
    rule, transformer = program.rule, program.transformer
    zeros = jnp.zeros((num_rows,), jnp.int32)
    table = jnp.zeros((num_rows, num_tokens), jnp.int32)
    sentence = Sentence(table, table, zeros + 1, zeros + 1, zeros + 1, zeros, zeros)
    branches = jnp.full((num_rows, len(rule.branches)), NONE) if rule.branches else None
    law = jnp.zeros((num_rows, rule.window, program.codes[1]))
    return State(
        cache=sharded_cache(transformer, num_rows * num_streams, num_slots, program.layout),
        base=jnp.ones((num_rows * num_streams,), jnp.int32),
        sentence=jax.tree.map(jnp.copy, sentence),  # donated: no two leaves may share memory
        summary=jnp.zeros((num_rows * num_streams, transformer.width), transformer.compute_dtype),
        opening=jnp.zeros((num_rows, program.codes[1])),
        branches=branches,
        law=law if rule.accept == "coupled" else None,
        policy=jax.tree.map(jnp.copy, policy),
    )


@partial(jax.jit, static_argnames=("program",), donate_argnames=("state",))
def admit(params: Any, state: State, slot: Array, arrival: Arrival, program: Program) -> State:
    """Put a request into a slot: its context through the model, CHUNK tokens at a time, and all else beside it."""
    num_streams = len(arrival.contexts)
    # The rows of one request are whole on every device where the batch axes cannot split them.
    layout = None if num_streams % batch_ways(program.layout) else program.layout

    def read_chunk(index: Array, carry: tuple[Cache, Array]) -> tuple[Cache, Array]:
        cache, summary = carry
        ids = jax.lax.dynamic_slice_in_dim(arrival.contexts, index * CHUNK, CHUNK, axis=1)
        hidden, cache = hidden_states(params, program.transformer, ids, cache=cache, layout=layout)
        assert cache is not None
        place = (arrival.lengths - 1 - index * CHUNK)[:, None]
        last = jnp.take_along_axis(hidden, jnp.clip(place, 0, CHUNK - 1)[..., None], axis=1)[:, 0]
        return cache, jnp.where((place >= 0) & (place < CHUNK), last, summary)

    cache = _rows_of(state.cache, slot, num_streams)
    cache = cache._replace(length=jnp.zeros(num_streams, jnp.int32))
    summary = jnp.zeros((num_streams, program.transformer.width), state.summary.dtype)
    num_chunks = -(-arrival.lengths.max() // CHUNK)
    cache, summary = jax.lax.fori_loop(0, num_chunks, read_chunk, (cache, summary))
    return _seated(params, state, slot, arrival, (cache, summary), program)


@partial(jax.jit, static_argnames=("program",), donate_argnames=("state",))
def share(
    params: Any, state: State, source: Array, slot: Array, arrival: Arrival, program: Program
) -> State:
    """As `admit`, where the slot `source` has read the same contexts: what it draws behind them does not matter."""
    read = _rows_of((state.cache, state.summary), source, len(arrival.contexts))
    return _seated(params, state, slot, arrival, read, program)


@partial(jax.jit, donate_argnames=("state",))
def halt(state: State, slot: Array) -> State:
    """Give up what a slot draws: no pass waits for it any more."""
    sentence = state.sentence
    stop = sentence.stop.at[slot].set(sentence.place[slot])
    return state._replace(sentence=sentence._replace(stop=stop))


def _rows_of(tree: Any, slot: Array, num_streams: int) -> Any:
    """The rows of one slot."""
    first = slot * num_streams
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, num_streams), tree)


def _seated(
    params: Any,
    state: State,
    slot: Array,
    arrival: Arrival,
    read: tuple[Cache, Array],
    program: Program,
) -> State:
    """The state with a request in a slot, whose context became `read`: cache rows and summary."""

    def put_rows(leaf: Array, rows: Array) -> Array:
        first = slot * len(rows)
        return jax.lax.dynamic_update_slice_in_dim(leaf, rows.astype(leaf.dtype), first, 0)

    logits = logits_from_hidden(params, program.transformer, read[1][:, None])[:, 0]
    policy = jax.tree.map(lambda leaf: leaf[None], arrival.policy)
    scales = scales_at(policy, arrival.sentence.place[None])
    rows = (state.cache, state.summary, state.base)
    cache, summary, base = jax.tree.map(put_rows, rows, (*read, arrival.base))
    sentence, policies, opening = jax.tree.map(
        lambda leaf, new: leaf.at[slot].set(new),
        (state.sentence, state.policy, state.opening),
        (arrival.sentence, arrival.policy, log_weights(guide_rows(logits, scales), policy)[0]),
    )
    branches = None if state.branches is None else state.branches.at[slot].set(NONE)
    return State(cache, base, sentence, summary, opening, branches, state.law, policies)
