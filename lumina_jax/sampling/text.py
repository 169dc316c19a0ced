"""Text after any context: a token a pass, rows of any lengths in one batch, many tokens a compiled dispatch.

Only text ids and the separator can be drawn, and the start of an image where the caller asks for it. Noise is tied to
(seed, place of the token in the answer), so a row draws the same alone and in a batch. Text is drawn without guidance,
as in the original. Caches hold a stretch of the answer; the next stretch is twice as long and begins by reading all
before it: a short answer never pays for the longest that might have been.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.config import SampleConfig, TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.chameleon import forward
from lumina_jax.ops.cache import Cache
from lumina_jax.sampling.batch import SLOT_BUCKET, Network, padded_count, round_up
from lumina_jax.sampling.generate import batch_limit
from lumina_jax.sampling.policy import MAX_SEED, Policy, draw, make_policy
from lumina_jax.sampling.sequential import Shape, inference_config, padded_length, read_contexts
from lumina_jax.sharding import Layout, place_rows
from lumina_jax.unirep.vocab import Vocab

if TYPE_CHECKING:
    from lumina_jax.checkpoint import LoadedModel

RUN_TOKENS = 64  # most tokens of a dispatch, which ends sooner once all rows are finished

FIRST_TOKENS = 256  # of the first stretch

TextProgress = Callable[[int], object]  # called with the number of rows that have just finished


@dataclass(frozen=True, eq=False)
class TextJob:
    """One row to write: what it follows, and what may be drawn how often."""

    context: np.ndarray  # Int[tokens]
    settings: SampleConfig
    seed: int
    limit: int  # most tokens to draw, separator included
    first_index: int = 0  # of the first token in its answer: what its noise is tied to
    num_starts: int = 0  # among so many of the first tokens an image may start
    allowed: np.ndarray | None = None  # ids; None: text and the separator


class Rules(NamedTuple):
    """What B rows may draw."""

    allowed: Array  # Bool[B, V], without the start of an image
    first_index: Array  # Int[B]
    limit: Array  # Int[B]
    num_starts: Array  # Int[B]
    stop_ids: (
        Array  # Int[2]: the separator and the start of an image, after which a row is finished
    )


class Rows(NamedTuple):
    """B rows under way."""

    last: Array  # Int[B]: the token that is not in the cache yet
    count: Array  # Int[B]: how many are drawn
    is_done: Array  # Bool[B]


class Program(NamedTuple):
    """What the compiled run depends on besides the shapes of its arrays."""

    transformer: TransformerConfig
    layout: Layout | None = None


def write_texts(
    model: "LoadedModel",
    contexts: Sequence[np.ndarray],
    settings: SampleConfig | None = None,
    seeds: Sequence[int] | int = 0,
    max_tokens: int | None = None,
    progress: TextProgress | None = None,
) -> list[np.ndarray]:
    """The text that follows each context, int32 ids without the separator.

    A context is [start, … , separator], with the images of the conversation in it. A text ends at its separator, at
    `max_tokens`, or where the model's longest sequence does. `settings` tell text_top_k (1 is greedy) and temperature.
    Raises ValueError of one line, before anything is drawn, for a context without room and a seed out of range.
    """
    chosen = settings or SampleConfig()
    all_seeds = [seeds] * len(contexts) if isinstance(seeds, int | np.integer) else list(seeds)
    if len(all_seeds) != len(contexts):
        raise ValueError(f"{len(all_seeds)} seeds for {len(contexts)} contexts: want one each")
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens {max_tokens}: want at least 1")
    jobs = []
    for context, seed in zip(contexts, all_seeds, strict=True):
        room = text_room(model, context)
        limit = room if max_tokens is None else min(room, max_tokens)
        jobs.append(TextJob(np.asarray(context), chosen, int(seed), limit))
    separator = model.tokenizer.vocab.sep_id
    drawn = draw_texts(model, jobs, progress)
    return [ids[:-1] if len(ids) and ids[-1] == separator else ids for ids in drawn]


def text_room(model: "LoadedModel", context: np.ndarray) -> int:
    """How many tokens the model can write after a context; ValueError of one line where it can write none."""
    room = model.config.max_tokens - len(context)
    if len(context) < 2 or room < 1:
        raise ValueError(
            f"conversation of {len(context)} tokens: this model reads from 2 to {model.config.max_tokens - 1} "
            "and answers in what is left; shorten it"
        )
    return room


def draw_texts(
    model: "LoadedModel",
    jobs: Sequence[TextJob],
    progress: TextProgress | None = None,
    max_batch: int | None = None,
) -> list[np.ndarray]:
    """What every job draws, int32, with the separator or the start of an image that ended it.

    Up to `max_batch` rows share a batch (None: as many as `batch_limit` says), filled up with copies of the first.
    """
    if not jobs:
        return []
    for job in jobs:
        if not 0 <= job.seed <= MAX_SEED:
            raise ValueError(f"seed {job.seed}: want 0 to {MAX_SEED}")
    drawn: list[list[np.ndarray]] = [[] for _ in jobs]
    left, stretch = dict(enumerate(jobs)), FIRST_TOKENS
    while left:
        for index, ids, job in _draw_stretch(model, left, stretch, max_batch, progress):
            drawn[index].append(ids)
            if job is None:
                del left[index]
            else:
                left[index] = job
        stretch *= 2
    return [np.concatenate(parts) for parts in drawn]


def _draw_stretch(
    model: "LoadedModel",
    jobs: Mapping[int, TextJob],
    stretch: int,
    max_batch: int | None,
    progress: TextProgress | None,
) -> list[tuple[int, np.ndarray, TextJob | None]]:
    """Up to `stretch` tokens of every job, batch after batch: its index, what it drew, what is left of it."""
    config, vocab = inference_config(model.config.transformer), model.tokenizer.vocab
    codes = (vocab.first_code_id, vocab.num_codes)
    network = Network(model.params["transformer"], config, codes, model.layout)
    parts = {i: replace(job, limit=min(job.limit, stretch)) for i, job in jobs.items()}
    prefill_length = padded_length(max(len(job.context) for job in parts.values()) - 1)
    total = max(len(job.context) + job.limit for job in parts.values())
    shape = Shape(round_up(max(total, prefill_length), SLOT_BUCKET), prefill_length)
    limit = max_batch or batch_limit(config, shape.num_slots, 1, model.layout)
    results = []
    for first in range(0, len(parts), limit):
        indices = list(parts)[first : first + limit]
        members = [parts[index] for index in indices]
        drawn = _draw_batch(network, members, shape, _text_mask(model), model)
        found = [
            (index, ids, _after(jobs[index], ids, vocab))
            for index, ids in zip(indices, drawn, strict=True)
        ]
        num_ended = sum(job is None for _, _, job in found)
        if progress is not None and num_ended:
            progress(num_ended)
        results += found
    return results


def _after(job: TextJob, ids: np.ndarray, vocab: Vocab) -> TextJob | None:
    """What is left of a job when some of it is drawn."""
    if len(ids) == job.limit or int(ids[-1]) in (vocab.sep_id, vocab.image_start_id):
        return None
    return replace(
        job,
        context=np.concatenate([job.context, ids]).astype(np.int32),
        limit=job.limit - len(ids),
        first_index=job.first_index + len(ids),
        num_starts=job.num_starts - len(ids),
    )


def _draw_batch(
    network: Network,
    jobs: Sequence[TextJob],
    shape: Shape,
    text: np.ndarray,
    model: "LoadedModel",
) -> list[np.ndarray]:
    """One batch, dispatch after dispatch until every row is finished."""
    filled = [*jobs, *[jobs[0]] * (padded_count(len(jobs), network.layout) - len(jobs))]
    vocab = model.tokenizer.vocab
    rules = Rules(
        allowed=jnp.asarray(np.stack([_mask(job, text) for job in filled])),
        first_index=jnp.array([job.first_index for job in filled], jnp.int32),
        limit=jnp.array([job.limit for job in filled], jnp.int32),
        num_starts=jnp.array([job.num_starts for job in filled], jnp.int32),
        stop_ids=jnp.array([vocab.sep_id, vocab.image_start_id], jnp.int32),
    )
    plain = [replace(job.settings, guidance=1.0, guidance_schedule=()) for job in filled]
    plain = [replace(settings, image_guidance=None) for settings in plain]
    policy = make_policy(plain, [job.seed for job in filled], text=True)
    program = Program(network.config, network.layout)
    cache, _ = read_contexts(network, [job.context for job in filled], shape, 1)
    last = jnp.array([job.context[-1] for job in filled], jnp.int32)
    rows = Rows(last, jnp.zeros(len(filled), jnp.int32), jnp.zeros(len(filled), bool))
    runs = []
    while not np.asarray(rows.is_done)[: len(jobs)].all():
        cache, rows, drawn = write_run(network.params, cache, rows, rules, policy, program)
        runs.append(np.asarray(drawn))
    tokens, counts = np.concatenate(runs, axis=1), np.asarray(rows.count)
    return [tokens[row, : counts[row]].astype(np.int32) for row in range(len(jobs))]


@partial(jax.jit, static_argnames=("program",), donate_argnames=("cache",))
def write_run(
    params: Any, cache: Cache, rows: Rows, rules: Rules, policy: Policy, program: Program
) -> tuple[Cache, Rows, Array]:
    """Draw up to RUN_TOKENS tokens of every unfinished row: the cache, the rows, Int[B, RUN_TOKENS] tokens.

    A row's tokens stand from the left. What finished rows go on to feed is never read.
    """
    separator, start = rules.stop_ids
    is_start = jnp.arange(rules.allowed.shape[1]) == start

    def step(carry: tuple) -> tuple:
        index, cache, rows, tokens = carry
        logits, grown = forward(
            params, program.transformer, rows.last[:, None], cache=cache, layout=program.layout
        )
        assert grown is not None
        may_start = (rows.count < rules.num_starts)[:, None] & is_start
        logits = jnp.where(
            rules.allowed | may_start, place_rows(logits[:, -1], program.layout), -jnp.inf
        )
        drawn = draw(logits, policy, rules.first_index + rows.count).astype(jnp.int32)
        drawn = jnp.where(rows.is_done, separator, drawn)
        count = rows.count + ~rows.is_done
        ends = (drawn == separator) | (drawn == start) | (count >= rules.limit)
        rows = Rows(drawn, count, rows.is_done | ends)
        return index + 1, grown, rows, tokens.at[:, index].set(drawn)

    def goes_on(carry: tuple) -> Array:
        index, _, rows, _ = carry
        return (index < RUN_TOKENS) & ~rows.is_done.all()

    tokens = jnp.zeros((len(rows.last), RUN_TOKENS), jnp.int32)
    carry = jax.lax.while_loop(goes_on, step, (jnp.int32(0), cache, rows, tokens))
    return carry[1:]


def _text_mask(model: "LoadedModel") -> np.ndarray:
    """Bool[V]: ids of text that stand for some, and the separator."""
    vocab, ids = model.tokenizer.vocab, np.arange(model.config.transformer.vocab_size)
    spoken = vocab.is_text(ids) & ~np.isin(ids, vocab.unspoken_ids)
    return spoken | (ids == vocab.sep_id)


def _mask(job: TextJob, text: np.ndarray) -> np.ndarray:
    if job.allowed is None:
        return text
    mask = np.zeros_like(text)
    mask[job.allowed] = True
    return mask
