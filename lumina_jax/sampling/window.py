"""Passes over a window of W tokens for many requests at once, each at its own place of its own image.

A slot of the batch holds one request: its cache rows, its sentence (forced ids, drawn ids, guesses) and how much of
that is decided. A pass feeds every slot the last decided token and W - 1 guesses; those that prove right stand, and one
more with them (`rules`). Slots know nothing of each other, so a request is drawn the same whatever its neighbours, and
a finished one makes room for another: `serving.queue` does so. Four programs do everything: `admit` reads a prompt,
`share` copies what another slot has read, `advance` draws, `halt` gives up; sizes, prompts and settings are run-time
values.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.chameleon import forward
from lumina_jax.ops.cache import Cache, init_cache
from lumina_jax.sampling.drafts import DRAFTS
from lumina_jax.sampling.guidance import guide_rows, to_rows
from lumina_jax.sampling.policy import Policy
from lumina_jax.sampling.rules import (
    Proposal,
    Rule,
    count_decided,
    draw_coupled,
    draw_tied,
    positional_noise,
    spread,
)
from lumina_jax.unirep.grid import FREE

CHUNK = 32  # tokens of a context that go through the model at once


class Program(NamedTuple):
    """What the compiled programs depend on besides the shapes of the state."""

    transformer: TransformerConfig
    codes: tuple[int, int]  # (first id, how many): the slice of the head that is computed
    rule: Rule


class Sentence(NamedTuple):
    """The image sentences of B slots, up to N tokens each. Tokens are counted from the first one of the sentence."""

    table: Array  # Int[B, N]: the forced ids, FREE where a code is drawn
    ids: Array  # Int[B, N]: what is decided, beyond it what is guessed
    place: Array  # Int[B]: how many tokens are decided
    known: Array  # Int[B]: how many are decided or guessed
    stop: Array  # Int[B]: where the last code ends; an empty slot has place = stop
    stride: Array  # Int[B]: from a code to the one below it
    passes: Array  # Int[B]: forward passes taken


class State(NamedTuple):
    """B slots with R cache rows each."""

    cache: Cache  # of B R rows
    base: Array  # Int[B R]: the cache slot of the sentence's first token
    sentence: Sentence
    law: (
        Array | None
    )  # Float[B, W, M]: what the guesses at place … place + W - 1 were drawn from; "coupled" alone
    policy: Policy


class Arrival(NamedTuple):
    """One request on its way into a slot."""

    contexts: Array  # Int[R, C]: what precedes the image sentence and its first forced ids, padded on the right
    lengths: Array  # Int[R]: of which so many tokens go into the cache: all but the last
    base: Array  # Int[R]
    sentence: Sentence  # without the axis B
    policy: Policy  # without the axis B


def empty_state(program: Program, policy: Policy, num_slots: int, num_tokens: int) -> State:
    """B empty slots, whose policies (of B requests) are placeholders, with T cache slots and N tokens of sentence."""
    num_rows, num_streams, window = len(policy.seed), policy.num_streams, program.rule.window
    zeros = jnp.zeros((num_rows,), jnp.int32)
    table = jnp.zeros((num_rows, num_tokens), jnp.int32)
    sentence = Sentence(table, table, zeros + 1, zeros + 1, zeros + 1, zeros, zeros)
    coupled = program.rule.accept == "coupled"
    return State(
        cache=init_cache(program.transformer, num_rows * num_streams, num_slots),
        base=jnp.ones((num_rows * num_streams,), jnp.int32),
        sentence=jax.tree.map(jnp.copy, sentence),  # donated: no two leaves may share memory
        law=jnp.zeros((num_rows, window, program.codes[1])) if coupled else None,
        policy=jax.tree.map(jnp.copy, policy),
    )


@partial(jax.jit, static_argnames=("program",), donate_argnames=("state",))
def admit(params: Any, state: State, slot: Array, arrival: Arrival, program: Program) -> State:
    """Put a request into a slot: its context through the model, CHUNK tokens at a time, and all else beside it."""
    num_streams = len(arrival.contexts)

    def read_chunk(index: Array, cache: Cache) -> Cache:
        ids = jax.lax.dynamic_slice_in_dim(arrival.contexts, index * CHUNK, CHUNK, axis=1)
        _, grown = forward(params, program.transformer, ids, cache=cache, head_slice=(0, 1))
        assert grown is not None
        return grown

    cache = _rows_of(state.cache, slot, num_streams)
    cache = cache._replace(length=jnp.zeros(num_streams, jnp.int32))
    cache = jax.lax.fori_loop(0, -(-arrival.lengths.max() // CHUNK), read_chunk, cache)
    return _seated(state, slot, arrival, cache)


@partial(jax.jit, donate_argnames=("state",))
def share(state: State, source: Array, slot: Array, arrival: Arrival) -> State:
    """As `admit`, where the slot `source` has read the same contexts: what it draws behind them does not matter."""
    return _seated(state, slot, arrival, _rows_of(state.cache, source, len(arrival.contexts)))


@partial(jax.jit, donate_argnames=("state",))
def halt(state: State, slot: Array) -> State:
    """Give up what a slot draws: no pass waits for it any more."""
    sentence = state.sentence
    stop = sentence.stop.at[slot].set(sentence.place[slot])
    return state._replace(sentence=sentence._replace(stop=stop))


def _rows_of(cache: Cache, slot: Array, num_streams: int) -> Cache:
    """The cache rows of one slot."""
    first = slot * num_streams
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, num_streams), cache)


def _seated(state: State, slot: Array, arrival: Arrival, cache: Cache) -> State:
    """The state with a request in a slot, whose cache rows are `cache`."""

    def put_rows(leaf: Array, rows: Array) -> Array:
        first = slot * len(rows)
        return jax.lax.dynamic_update_slice_in_dim(leaf, rows.astype(leaf.dtype), first, 0)

    sentence, policy = jax.tree.map(
        lambda leaf, new: leaf.at[slot].set(new),
        (state.sentence, state.policy),
        (arrival.sentence, arrival.policy),
    )
    return State(
        cache=jax.tree.map(put_rows, state.cache, cache),
        base=put_rows(state.base, arrival.base),
        sentence=sentence,
        law=state.law,
        policy=policy,
    )


@partial(jax.jit, static_argnames=("program",), donate_argnames=("state",))
def advance(
    params: Any, state: State, max_passes: Array, program: Program
) -> tuple[State, Sentence]:
    """Up to `max_passes` passes, fewer where all slots are done; also a copy of the sentences to look at."""

    def going(carry: tuple[Array, State]) -> Array:
        index, state = carry
        return (index < max_passes) & (state.sentence.place < state.sentence.stop).any()

    def step(carry: tuple[Array, State]) -> tuple[Array, State]:
        index, state = carry
        return index + 1, one_pass(params, state, program)

    _, state = jax.lax.while_loop(going, step, (jnp.int32(0), state))
    return state, jax.tree.map(jnp.copy, state.sentence)


def one_pass(params: Any, state: State, program: Program) -> State:
    """One forward pass of every slot's window, and what it decides and guesses."""
    sentence, (first_code_id, num_codes) = state.sentence, program.codes
    num_streams = state.policy.num_streams
    at = sentence.place[:, None] + jnp.arange(program.rule.window)  # the tokens that are predicted
    forced = jnp.take_along_axis(sentence.table, at, axis=1)
    noise = positional_noise(state.policy.seed, at, num_codes)
    guess = _guess(state, at, forced, noise, program)
    guessed_ids = jnp.where(forced == FREE, guess.codes + first_code_id, forced)

    last = jnp.take_along_axis(sentence.ids, sentence.place[:, None] - 1, axis=1)
    window = to_rows(jnp.concatenate([last, guessed_ids[:, :-1]], axis=1), num_streams)
    length = state.base + to_rows(sentence.place, num_streams) - 1
    cache = state.cache._replace(length=length)
    logits, cache = forward(
        params, program.transformer, window, cache=cache, head_slice=program.codes
    )
    assert cache is not None
    drawn = _draw(_guided(logits, state.policy), guess, noise, at, state, program)
    ids = jnp.where(forced == FREE, drawn.codes + first_code_id, forced)

    room = sentence.stop - sentence.place
    decided = jnp.minimum(count_decided(ids, guessed_ids), room)
    rows = jnp.arange(len(ids))[:, None]
    sentence = sentence._replace(
        ids=sentence.ids.at[rows, at].set(ids),
        place=sentence.place + decided,
        known=jnp.where(room > 0, at[:, -1] + 1, sentence.known),
        passes=sentence.passes + (room > 0),
    )
    law = None if drawn.law is None else _shifted(drawn.law, decided)
    return state._replace(cache=cache, sentence=sentence, law=law)


def _guess(state: State, at: Array, forced: Array, noise: Array, program: Program) -> Proposal:
    """The codes guessed at `at`: those of the last pass, and first guesses beyond them."""
    sentence, (first_code_id, num_codes) = state.sentence, program.codes
    kept = jnp.take_along_axis(sentence.ids, at, axis=1) - first_code_id
    fresh = at >= sentence.known[:, None]
    first = DRAFTS[program.rule.drafts](noise, sentence.ids, at, sentence.stride, first_code_id)
    codes = jnp.clip(jnp.where(fresh, first, kept), 0, num_codes - 1)
    if state.law is None:
        return Proposal(codes, None)
    if program.rule.drafts == "uniform":
        first_law = jnp.full_like(state.law, 1 / num_codes)
    else:
        first_law = jax.nn.one_hot(codes, num_codes)
    return Proposal(codes, jnp.where(fresh[..., None], first_law, state.law))


def _draw(
    logits: Array, guess: Proposal, noise: Array, at: Array, state: State, program: Program
) -> Proposal:
    if program.rule.accept == "tied":
        return Proposal(draw_tied(logits, noise, state.policy), None)
    return draw_coupled(logits, guess, state.sentence.passes, at, state.policy)


def _guided(logits: Array, policy: Policy) -> Array:
    """[B R, W, M] to [B, W, M]."""
    window, num_codes = logits.shape[1:]
    streams = [logits[stream :: policy.num_streams] for stream in range(policy.num_streams)]
    rows = jnp.stack(streams, axis=2).reshape(-1, num_codes)  # B, W, R
    return guide_rows(rows, spread(policy, window).guidance).reshape(-1, window, num_codes)


def _shifted(law: Array, decided: Array) -> Array:
    """The laws of a window that begins `decided` positions later."""
    offsets = jnp.minimum(jnp.arange(law.shape[1]) + decided[:, None], law.shape[1] - 1)
    return jnp.take_along_axis(law, offsets[..., None], axis=1)
