"""Passes over a window of W tokens for many requests at once, each at its own place of its own image.

A slot of the batch holds one request: its cache rows, its sentence (forced ids, drawn ids, guesses) and how much of
that is decided. A pass feeds every slot the last decided token and W - 1 guesses; those that prove right stand, and one
more with them (`rules`). Slots know nothing of each other, so a request is drawn the same whatever its neighbours, and
a finished one makes room for another: `serving.queue` does so. Two programs do everything, `admit` and `advance`;
sizes, prompts and settings are run-time values.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.chameleon import forward, hidden_states, logits_from_hidden
from lumina_jax.ops.cache import Cache
from lumina_jax.sampling.branches import NONE, adopt, alternatives, find_hit, scattered
from lumina_jax.sampling.drafts import DRAFTS
from lumina_jax.sampling.guidance import guide_rows, to_rows
from lumina_jax.sampling.placement import sharded_cache
from lumina_jax.sampling.policy import Policy, log_weights, scales_at
from lumina_jax.sampling.rules import (
    Proposal,
    Rule,
    count_decided,
    draw_coupled,
    draw_tied,
    positional_noise,
    spread,
)
from lumina_jax.sharding import Layout, place_rows
from lumina_jax.unirep.grid import FREE

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
    opening: Array  # Float[B, M]: log-weights of the first code, known from the context alone
    branches: Array | None  # Int[B, K] codes, NONE where none is known
    law: (
        Array | None
    )  # Float[B, W, M]: what the guesses at place … place + W - 1 were drawn from; "coupled" alone
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
    num_rows, num_streams, window = len(policy.seed), policy.num_streams, program.rule.window
    zeros = jnp.zeros((num_rows,), jnp.int32)
    table = jnp.zeros((num_rows, num_tokens), jnp.int32)
    sentence = Sentence(table, table, zeros + 1, zeros + 1, zeros + 1, zeros, zeros)
    coupled = program.rule.accept == "coupled"
    return State(
        cache=sharded_cache(program.transformer, num_rows * num_streams, num_slots, program.layout),
        base=jnp.ones((num_rows * num_streams,), jnp.int32),
        sentence=jax.tree.map(jnp.copy, sentence),  # donated: no two leaves may share memory
        opening=jnp.zeros((num_rows, program.codes[1])),
        branches=_no_branches(program, num_rows),
        law=jnp.zeros((num_rows, window, program.codes[1])) if coupled else None,
        policy=jax.tree.map(jnp.copy, policy),
    )


@partial(jax.jit, static_argnames=("program",), donate_argnames=("state",))
def admit(params: Any, state: State, slot: Array, arrival: Arrival, program: Program) -> State:
    """Put a request into a slot: its context through the model, CHUNK tokens at a time, and all else beside it."""
    num_streams, num_tokens = arrival.contexts.shape
    first_row = slot * num_streams

    def rows_of(leaf: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(leaf, first_row, num_streams)

    def put_rows(leaf: Array, rows: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(leaf, rows.astype(leaf.dtype), first_row, 0)

    def read_chunk(index: Array, carry: tuple[Cache, Array]) -> tuple[Cache, Array]:
        cache, last = carry
        ids = jax.lax.dynamic_slice_in_dim(arrival.contexts, index * CHUNK, CHUNK, axis=1)
        hidden, grown = hidden_states(
            params, program.transformer, ids, cache=cache, layout=program.layout
        )
        assert grown is not None
        place = arrival.lengths - 1 - index * CHUNK
        here = jnp.take_along_axis(hidden, jnp.clip(place, 0, CHUNK - 1)[:, None, None], axis=1)
        inside = (place >= 0) & (place < CHUNK)
        return grown, jnp.where(inside[:, None, None], here, last)

    cache = jax.tree.map(rows_of, state.cache)._replace(length=jnp.zeros(num_streams, jnp.int32))
    last = jnp.zeros((num_streams, 1, program.transformer.width), program.transformer.compute_dtype)
    num_chunks = -(-arrival.lengths.max() // CHUNK)
    cache, last = jax.lax.fori_loop(0, num_chunks, read_chunk, (cache, last))
    logits = logits_from_hidden(params, program.transformer, last)[:, 0]
    one = jax.tree.map(lambda leaf: leaf[None], arrival.policy)
    scales = scales_at(one, arrival.sentence.place[None])
    opening = log_weights(guide_rows(logits, scales), one)[0]
    sentence, policy = jax.tree.map(
        lambda leaf, new: leaf.at[slot].set(new),
        (state.sentence, state.policy),
        (arrival.sentence, arrival.policy),
    )
    return State(
        cache=jax.tree.map(put_rows, state.cache, cache),
        base=put_rows(state.base, arrival.base),
        sentence=sentence,
        opening=state.opening.at[slot].set(opening),
        branches=None if state.branches is None else state.branches.at[slot].set(NONE),
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
    """One forward pass of every slot's window and branches, and what it decides and guesses."""
    sentence, rule, (first_code_id, num_codes) = state.sentence, program.rule, program.codes
    depths = jnp.array(rule.branches, jnp.int32)
    window = jnp.arange(rule.window)
    at = sentence.place[:, None] + jnp.concatenate(
        [window, depths]
    )  # the tokens that are predicted
    forced = jnp.take_along_axis(sentence.table, at, axis=1)
    noise = positional_noise(state.policy.seed, at, num_codes)
    guess = _guess(state, at[:, : rule.window], noise[:, : rule.window], program)
    guessed_ids = jnp.where(
        forced[:, : rule.window] == FREE, guess.codes + first_code_id, forced[:, : rule.window]
    )

    logits, cache = _forward(params, state, guessed_ids, program)
    guided = _guided(place_rows(logits, program.layout), at, state.policy)
    # A branch predicts the same position as the window behind the guess that it replaces.
    beside = jnp.concatenate([window, jnp.minimum(depths, rule.window - 1)])
    drawn, scores = _draw(guided, _taken(guess, beside), noise, at, state, program)
    ids = jnp.where(forced == FREE, drawn.codes + first_code_id, forced)

    chain, room = ids[:, : rule.window], sentence.stop - sentence.place
    decided = count_decided(chain, guessed_ids)
    rows = jnp.arange(len(ids))[:, None]
    new_ids = sentence.ids.at[rows, at[:, : rule.window]].set(chain)
    branches = None
    if state.branches is not None:
        last = jnp.take_along_axis(chain, decided[:, None] - 1, axis=1)[:, 0]
        hit = find_hit(last - first_code_id, decided, state.branches, rule.branches)
        start = state.base + to_rows(sentence.place, state.policy.num_streams) - 1
        offsets = jnp.where(hit.found, rule.window + hit.index, decided), decided
        source, target = (start + to_rows(each, state.policy.num_streams) for each in offsets)
        cache = adopt(cache, source, target)
        after = jnp.take_along_axis(ids[:, rule.window :], hit.index[:, None], axis=1)
        place = (sentence.place + decided)[:, None]
        kept = jnp.take_along_axis(new_ids, place, axis=1)
        new_ids = new_ids.at[rows, place].set(jnp.where(hit.found[:, None], after, kept))
        decided = decided + hit.found
        branches = alternatives(
            scores[:, : rule.window], drawn.codes[:, : rule.window], decided, rule.branches
        )
    decided = jnp.minimum(decided, room)
    sentence = sentence._replace(
        ids=new_ids,
        place=sentence.place + decided,
        known=jnp.where(
            room > 0,
            jnp.maximum(at[:, rule.window - 1] + 1, sentence.place + decided),
            sentence.known,
        ),
        passes=sentence.passes + (room > 0),
    )
    law = None if drawn.law is None else _shifted(drawn.law[:, : rule.window], decided)
    return state._replace(cache=cache, sentence=sentence, law=law, branches=branches)


def _forward(
    params: Any, state: State, guessed_ids: Array, program: Program
) -> tuple[Array, Cache]:
    """Logits [B R, W + K, M] of the last decided token, the guesses after it, and the branches."""
    sentence, rule, num_streams = state.sentence, program.rule, state.policy.num_streams
    last = jnp.take_along_axis(sentence.ids, sentence.place[:, None] - 1, axis=1)
    window = [last, guessed_ids[:, :-1]]
    start = state.base + to_rows(sentence.place, num_streams) - 1
    cache, positions, place = state.cache._replace(length=start), None, None
    if state.branches is not None:
        window.append(jnp.maximum(state.branches, 0) + program.codes[0])
        num_slots = cache.keys[0].shape[2]
        positions, place = scattered(start, rule.window, rule.branches, num_slots)
    ids = to_rows(jnp.concatenate(window, axis=1), num_streams)
    logits, cache = forward(
        params,
        program.transformer,
        ids,
        positions,
        cache=cache,
        scatter=place,
        layout=program.layout,
    )
    assert cache is not None
    return logits, cache


def _taken(guess: Proposal, index: Array) -> Proposal:
    law = None if guess.law is None else guess.law[:, index]
    return Proposal(guess.codes[:, index], law)


def _no_branches(program: Program, num_rows: int) -> Array | None:
    branches = program.rule.branches
    return jnp.full((num_rows, len(branches)), NONE) if branches else None


def _guess(state: State, at: Array, noise: Array, program: Program) -> Proposal:
    """The codes guessed at `at`: those of the last pass, and first guesses beyond them."""
    sentence, (first_code_id, num_codes) = state.sentence, program.codes
    kept = jnp.take_along_axis(sentence.ids, at, axis=1) - first_code_id
    fresh = at >= sentence.known[:, None]
    first = DRAFTS[program.rule.drafts](
        noise, sentence.ids, at, sentence.stride, first_code_id, state.opening
    )
    codes = jnp.clip(jnp.where(fresh, first.codes, kept), 0, num_codes - 1)
    if state.law is None:
        return Proposal(codes, None)
    assert first.law is not None
    return Proposal(codes, jnp.where(fresh[..., None], first.law, state.law))


def _draw(
    logits: Array, guess: Proposal, noise: Array, at: Array, state: State, program: Program
) -> tuple[Proposal, Array]:
    if program.rule.accept == "tied":
        codes, scores = draw_tied(logits, noise, state.policy)
        return Proposal(codes, None), scores
    drawn = draw_coupled(logits, guess, state.sentence.passes, at, state.policy)
    assert drawn.law is not None
    return drawn, jnp.log(drawn.law)


def _guided(logits: Array, at: Array, policy: Policy) -> Array:
    """[B R, W, M] to [B, W, M]."""
    window, num_codes = logits.shape[1:]
    streams = logits.reshape(-1, policy.num_streams, window, num_codes)
    rows = streams.swapaxes(1, 2).reshape(-1, num_codes)  # B, W, R
    scales = scales_at(spread(policy, window), at.reshape(-1))
    return guide_rows(rows, scales).reshape(-1, window, num_codes)


def _shifted(law: Array, decided: Array) -> Array:
    """The laws of a window that begins `decided` positions later."""
    offsets = jnp.minimum(jnp.arange(law.shape[1]) + decided[:, None], law.shape[1] - 1)
    return jnp.take_along_axis(law, offsets[..., None], axis=1)
