"""Speculative Jacobi decoding as published (arXiv 2410.01699), counted in forward passes: the baseline of our decoders.

Mirrored from `scheduler/jacobi_iteration_lumina_mgpt.py` of tyshiwo1/Accelerating-T2I-AR-with-SJD, one image at a time:

- A window is [last committed token, W-1 drafts], W = 16 as published, so a pass commits 1 to W tokens.
- Each pass draws a fresh token at every place of the window. Draft i is kept with probability min(1, p_i / q_i); the
  first that is not is drawn again from (p_i - q_i)+; if all are kept the last fresh token comes with them. Behind the
  first refused draft, the fresh tokens of this pass are the drafts of the next, and their p is then q.
- What the window then lacks is filled with uniformly random codes that claim a one-hot q (so that one is kept with
  probability p, not M p), at the places of line ends too, where it is always refused. A line end once drawn is kept.
- The law is the guided one after top-k, at every place.
- The length of a window goes by n, how many tokens (start, height and width among them) had been generated before the
  last pass: min(W, R - n) for n < R = P Q + P - `END_MARGIN`. Beyond R it is plain decoding, a token a pass. Of an
  image of 768 px that is under 1 % of the tokens, of 8 x 8 codes about the last 12 of 71. An `end_margin` of
  -`NUM_LEAD` lets windows reach to the last code, which the published loop does not do.

Not mirrored, each to its advantage: start, height and width stand in the prompt and cost nothing (there they are drawn
by three passes, the third with a window); line end and image end behind the last code are not counted; no window
reaches beyond the last code. Of a batch, which the original advances by its slowest image, every image is counted as
if alone. Its unprompted row also sees the prompt's last token; here guidance, and ties at the k-th place, are as in
`sampling`, so that all decoders draw from one law.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.checkpoint import LoadedModel
from lumina_jax.config import SampleConfig, TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.chameleon import forward
from lumina_jax.ops.cache import Cache, init_cache, rewind
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import prepare
from lumina_jax.sampling.guidance import guide_rows, to_rows
from lumina_jax.sampling.policy import Policy, keep_top_k, make_policy
from lumina_jax.sampling.sequential import inference_config
from lumina_jax.unirep.grid import FREE

WINDOW = 16
END_MARGIN = 10
NUM_LEAD = 3  # start, height, width


class Program(NamedTuple):
    """What one compiled run depends on besides the shapes of its arrays."""

    transformer: TransformerConfig
    codes: tuple[int, int]  # (first id, how many, M)
    line_end_id: int
    window: int  # W
    last: int  # R, in generated tokens: where the windows end


class State(NamedTuple):
    """B images under way. A token is a code's index, or M for a line end."""

    cache: Cache
    drawn: Array  # Int[B, body + W]
    count: Array  # Int[B] tokens of the body that are committed
    before: Array  # Int[B] tokens that were generated before the last pass, the lead included
    drafts: Array  # Int[B, W-1]
    draft_probs: Array  # Float[B, W-1, M+1]: q
    passes: Array  # Int[B]
    round: Array  # Int[]


def draw_images(
    model: LoadedModel,
    requests: list[Request],
    settings: SampleConfig,
    window: int = WINDOW,
    end_margin: int = END_MARGIN,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Int[B, P, Q] codes of requests of one size, and Int[B] the passes that each took."""
    jobs = prepare(model, requests, settings)
    plan, vocab = jobs[0].plan, model.tokenizer.vocab
    if len({job.plan.shape for job in jobs}) > 1 or settings.image_top_p < 1:
        raise ValueError("published SJD: want images of one size, and image_top_p 1")
    rows, columns = plan.shape
    body = plan.sentence[plan.runs[0][0] : plan.runs[-1][1]]
    codes = (vocab.first_code_id, vocab.num_codes)
    last = rows * columns + rows - end_margin
    config = inference_config(model.config.transformer)
    program = Program(config, codes, vocab.line_end_id, window, last)
    policy = make_policy([settings] * len(jobs), list(range(len(jobs))))
    ids, lengths = _padded([context for job in jobs for context in job.contexts])
    is_line_end = np.append(body != FREE, np.zeros(window, bool))
    lasts = np.array([job.contexts[0][-1] for job in jobs], np.int32)
    drawn, passes = _draw(
        model.params["transformer"], ids, lengths, lasts, is_line_end, policy, seed, program
    )
    tokens = np.asarray(drawn)[:, : len(body)][:, body == FREE]
    return tokens.reshape(-1, rows, columns), np.asarray(passes)


def _padded(contexts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All but the last token of every row, padded on the right to one length, and how many those are."""
    lengths = np.array([len(context) - 1 for context in contexts], np.int32)
    ids = np.zeros((len(contexts), lengths.max()), np.int32)
    for row, context in zip(ids, contexts, strict=True):
        row[: len(context) - 1] = context[:-1]
    return ids, lengths


@partial(jax.jit, static_argnames=("program",))
def _draw(
    params: Any,
    ids: Array,
    lengths: Array,
    lasts: Array,
    is_line_end: Array,
    policy: Policy,
    seed: Array,
    program: Program,
) -> tuple[Array, Array]:
    """Pass after pass until every image is whole."""
    window, num_classes = program.window, program.codes[1] + 1
    batch, total = len(lasts), len(is_line_end) - window
    cache = init_cache(program.transformer, len(ids), ids.shape[1] + 1 + total + window)
    _, grown = forward(params, program.transformer, ids, cache=cache, head_slice=(0, 1))
    assert grown is not None
    key = jax.random.key(seed)
    drafts, draft_probs = random_drafts(key, (batch, window - 1), num_classes)
    zeros = jnp.zeros((batch,), jnp.int32)
    before = jnp.full((batch,), NUM_LEAD - 1)
    drawn = jnp.zeros((batch, total + window), jnp.int32)
    state = State(grown, drawn, zeros, before, drafts, draft_probs, zeros, jnp.int32(1))

    def step(state: State) -> State:
        at = jnp.maximum(state.count - 1, 0)
        previous = jnp.take_along_axis(state.drawn, at[:, None], axis=1)[:, 0]
        last_id = jnp.where(state.count == 0, lasts, _ids(previous, program))
        window_ids = jnp.concatenate([last_id[:, None], _ids(state.drafts, program)], axis=1)
        filled = lengths + to_rows(state.count, policy.num_streams)
        logits, cache = forward(
            params,
            program.transformer,
            to_rows(window_ids, policy.num_streams),
            cache=rewind(state.cache, filled),
            head_slice=program.codes,
        )
        guided = jax.vmap(guide_rows, in_axes=(1, None), out_axes=1)(logits, policy.guidance)
        places = state.count[:, None] + jnp.arange(window)
        probs = _target(guided, is_line_end[jnp.minimum(places, total)], policy)
        return advance(state._replace(cache=cache), probs, key, total, program)

    state = jax.lax.while_loop(lambda state: (state.count < total).any(), step, state)
    return state.drawn, state.passes


def _ids(tokens: Array, program: Program) -> Array:
    """Token ids of codes and line ends."""
    first, num_codes = program.codes
    return jnp.where(tokens == num_codes, program.line_end_id, tokens + first)


def random_drafts(key: Array, shape: tuple[int, ...], num_classes: int) -> tuple[Array, Array]:
    """Uniform codes, and the one-hot q that the published code claims for them."""
    drafts = jax.random.randint(key, shape, 0, num_classes - 1)
    return drafts, jax.nn.one_hot(drafts, num_classes)


def _target(guided: Array, is_line_end: Array, policy: Policy) -> Array:
    """p, Float[B, W, M+1], of guided logits [B, W, M]: the policy's law, and one-hot where a line ends."""
    batch, window, num_codes = guided.shape
    top_k = jnp.repeat(policy.top_k, window)
    kept = keep_top_k(guided.reshape(-1, num_codes), top_k).reshape(guided.shape)
    scores = jnp.where(kept, guided / policy.temperature[:, None, None], -jnp.inf)
    probs = jnp.pad(jax.nn.softmax(scores, axis=-1), ((0, 0), (0, 0), (0, 1)))
    forced = jax.nn.one_hot(num_codes, num_codes + 1)
    return jnp.where(is_line_end[..., None], forced, probs)


def advance(state: State, probs: Array, key: Array, total: int, program: Program) -> State:
    """Verify the drafts under p, commit what is kept and one token more, and refill the window."""
    window, last = program.window, program.last
    key = jax.random.fold_in(key, state.round)
    accept_key, redraw_key, fresh_key, tail_key = jax.random.split(key, 4)
    index = jnp.arange(window)

    in_jacobi = (state.before >= 1) & (state.before < last)
    length = jnp.where(in_jacobi, jnp.minimum(window, last - state.before), 1)
    length = jnp.minimum(length, total - state.count)  # 0 where the image is whole
    fresh = jax.random.categorical(fresh_key, jnp.log(probs))

    p = jnp.take_along_axis(probs[:, :-1], state.drafts[..., None], axis=2)[..., 0]
    q = jnp.take_along_axis(state.draft_probs, state.drafts[..., None], axis=2)[..., 0]
    kept = jax.random.uniform(accept_key, p.shape) < p / q
    kept &= index[1:] < length[:, None]
    num_kept = jnp.cumprod(kept, axis=1).sum(axis=1)

    at = num_kept[:, None, None]
    pad = ((0, 0), (0, 1), (0, 0))
    p_there = jnp.take_along_axis(probs, at, axis=1)[:, 0]
    q_there = jnp.take_along_axis(jnp.pad(state.draft_probs, pad), at, axis=1)[:, 0]
    redrawn = jax.random.categorical(redraw_key, jnp.log(jnp.maximum(p_there - q_there, 0)))
    is_refused = num_kept < length - 1
    fresh_there = jnp.take_along_axis(fresh, num_kept[:, None], axis=1)[:, 0]
    one_more = jnp.where(is_refused, redrawn, fresh_there)

    drafts = jnp.pad(state.drafts, ((0, 0), (0, 1)))
    tokens = jnp.where(index < num_kept[:, None], drafts, one_more[:, None])
    num_new = jnp.where(length > 0, num_kept + 1, 0)
    write = jax.vmap(lambda row, new, at: jax.lax.dynamic_update_slice(row, new, (at,)))
    drawn = write(state.drawn, tokens, state.count)

    source = index[:-1] + num_new[:, None]
    is_fresh = source < length[:, None]
    source = jnp.minimum(source, window - 1)
    tail, tail_probs = random_drafts(tail_key, state.drafts.shape, probs.shape[-1])
    moved = jnp.take_along_axis(fresh, source, axis=1)
    moved_probs = jnp.take_along_axis(probs, source[..., None], axis=1)
    return State(
        cache=state.cache,
        drawn=drawn,
        count=state.count + num_new,
        before=state.count + NUM_LEAD,
        drafts=jnp.where(is_fresh, moved, tail),
        draft_probs=jnp.where(is_fresh[..., None], moved_probs, tail_probs),
        passes=state.passes + (length > 0),
        round=state.round + 1,
    )
