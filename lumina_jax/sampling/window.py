"""Passes over a window of W tokens for many requests at once, each at its own place of its own image.

A pass feeds every slot (`slot_state`) the last decided token and W - 1 guesses; those that prove right stand, and one
more with them (`rules`). Slots know nothing of each other, so a request is drawn the same whatever its neighbours, and
a finished one makes room for another: `serving.queue` does so. Sizes, prompts and settings are run-time values.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lumina_jax.dims import Array
from lumina_jax.model.chameleon import forward
from lumina_jax.ops.cache import Cache
from lumina_jax.sampling.branches import adopt, alternatives, find_hit, scattered
from lumina_jax.sampling.drafts import DRAFTS, Proposal
from lumina_jax.sampling.guidance import to_rows
from lumina_jax.sampling.rules import (
    Rule,
    count_decided,
    draw_coupled,
    draw_tied,
    guide_window,
    positional_noise,
)
from lumina_jax.sampling.slot_state import Program, Sentence, State
from lumina_jax.sharding import place_rows
from lumina_jax.unirep.grid import FREE


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
    window, depths = jnp.arange(rule.window), jnp.array(rule.branches, jnp.int32)
    at = sentence.place[:, None] + jnp.concatenate([window, depths])  # the tokens to predict
    forced = jnp.take_along_axis(sentence.table, at, axis=1)
    chain_noise = positional_noise(state.policy.seed, at[:, : rule.window], num_codes)
    guess = _guess(state, at[:, : rule.window], chain_noise, program)
    noise = _beside(chain_noise, rule)
    free = forced == FREE
    guessed_ids = jnp.where(free, _beside(guess.codes, rule) + first_code_id, forced)

    logits, cache = _forward(params, state, guessed_ids[:, : rule.window], program)
    guided = guide_window(place_rows(logits, program.layout), at, state.policy)
    drawn, scores = _draw(guided, guess, noise, at, state, program)
    ids = jnp.where(free, drawn.codes + first_code_id, forced)

    chain, after = ids[:, : rule.window], ids[:, rule.window :]
    decided = count_decided(chain, guessed_ids[:, : rule.window])
    rows = jnp.arange(len(ids))[:, None]
    new_ids, branches = sentence.ids.at[rows, at[:, : rule.window]].set(chain), None
    if state.branches is not None:
        decided, new_ids, cache = _join_branch(decided, new_ids, cache, after, state, program)
        branches = alternatives(
            scores[:, : rule.window], drawn.codes[:, : rule.window], decided, rule.branches
        )
    room = sentence.stop - sentence.place
    decided = jnp.minimum(decided, room)
    known = jnp.maximum(at[:, rule.window - 1] + 1, sentence.place + decided)
    sentence = sentence._replace(
        ids=new_ids,
        place=sentence.place + decided,
        known=jnp.where(room > 0, known, sentence.known),
        passes=sentence.passes + (room > 0),
    )
    law = None if drawn.law is None else _shifted(drawn.law[:, : rule.window], decided)
    return state._replace(cache=cache, sentence=sentence, law=law, branches=branches)


def _join_branch(
    decided: Array, ids: Array, cache: Cache, after: Array, state: State, program: Program
) -> tuple[Array, Array, Cache]:
    """One token more, `after` a branch, where the branch held the right token in the place of the first wrong guess."""
    rule, num_streams, place = program.rule, state.policy.num_streams, state.sentence.place
    assert state.branches is not None
    rows = jnp.arange(len(ids))
    right = ids[rows, place + decided - 1] - program.codes[0]
    hit = find_hit(right, decided, state.branches, rule.branches)
    start = state.base + to_rows(place, num_streams) - 1
    offsets = jnp.where(hit.found, rule.window + hit.index, decided), decided
    cache = adopt(cache, *(start + to_rows(each, num_streams) for each in offsets))
    target = place + decided
    ids = ids.at[rows, target].set(jnp.where(hit.found, after[rows, hit.index], ids[rows, target]))
    return decided + hit.found, ids, cache


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


def _beside(each: Array, rule: Rule) -> Array:
    """What a window has for each token, and again for its branches.

    A branch predicts the same position as the window behind the guess that it replaces.
    """
    return jnp.concatenate([each, each[:, jnp.array(rule.branches, jnp.int32)]], axis=1)


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
    assert guess.law is not None
    guess = Proposal(_beside(guess.codes, program.rule), _beside(guess.law, program.rule))
    drawn = draw_coupled(logits, guess, state.sentence.passes, at, state.policy)
    assert drawn.law is not None
    return drawn, jnp.log(drawn.law)


def _shifted(law: Array, decided: Array) -> Array:
    """The laws of a window that begins `decided` positions later."""
    offsets = jnp.minimum(jnp.arange(law.shape[1]) + decided[:, None], law.shape[1] - 1)
    return jnp.take_along_axis(law, offsets[..., None], axis=1)
