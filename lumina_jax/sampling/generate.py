"""Requests to image sentences: groups what can share a compiled batch, draws it, returns it in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lumina_jax.config import SampleConfig, TransformerConfig
from lumina_jax.dims import pick
from lumina_jax.ops.cache import cache_bytes
from lumina_jax.sampling import DECODERS, original
from lumina_jax.sampling.grammar import ImagePlan, check_room, plan_image
from lumina_jax.sampling.guidance import stream_contexts
from lumina_jax.sampling.policy import make_policy
from lumina_jax.sampling.sequential import SLOT_BUCKET, WINDOW, Batch, padded_length

if TYPE_CHECKING:
    from lumina_jax.checkpoint import LoadedModel

MAX_SEED = 2**31 - 1
MAX_BATCH = 32  # requests that share a batch, where the cache leaves room for them
CACHE_BYTES = 8 * 2**30  # what the keys and values of a batch may take


@dataclass(frozen=True, eq=False)
class Request:
    """One image to draw. The result depends on these fields and the settings only, not on the other requests."""

    prompt_ids: np.ndarray  # [start, text …, separator]
    width_px: int
    height_px: int
    seed: int = 0
    settings: SampleConfig | None = None  # None: those of the call
    num_tokens: int | None = (
        None  # grammar "original" only: exactly this many; None: until the separator
    )


class Generated(NamedTuple):
    """What a request became."""

    ids: (
        np.ndarray
    )  # int32: the image sentence; with grammar "original" all that follows the prompt
    codes: (
        np.ndarray | None
    )  # int32[P, Q]; None where grammar "original" wrote no image that can be read


class Row(NamedTuple):
    """Progress: one row of codes has been drawn for some requests."""

    requests: tuple[int, ...]  # their places in the list given to `generate`
    row_index: int
    num_rows: int
    codes: np.ndarray  # int32[len(requests), Q]


Progress = Callable[[Row], object]


class Shape(NamedTuple):
    """The padded sizes that all batches of a call share, so that they share compiled programs."""

    num_slots: int
    prefill_length: int


class Job(NamedTuple):
    """A request with what is known about it before drawing."""

    index: int
    request: Request
    settings: SampleConfig
    plan: ImagePlan
    contexts: list[np.ndarray]  # of every stream: prompt and the image's first forced tokens


def generate(
    model: "LoadedModel",
    requests: Sequence[Request],
    settings: SampleConfig | None = None,
    progress: Progress | None = None,
    max_batch: int | None = None,
) -> list[Generated]:
    """Draw every request; those with the same image size share batches of up to `max_batch` (None: `batch_limit`).

    Raises ValueError of one line, before anything is drawn, for a size, prompt or seed that the model cannot take.
    """
    jobs = prepare(model, requests, settings)
    results: dict[int, Generated] = {}
    exact = [job for job in jobs if job.settings.grammar == "exact"]
    for job in jobs:
        if job.settings.grammar == "original":
            results[job.index] = _draw_original(model, job)
    if exact:
        shape = _shared_shape(exact)
        for _, group in groupby(sorted(exact, key=_group_of), key=_group_of):
            members = list(group)
            limit = max_batch or batch_limit(
                model.config.transformer, shape.num_slots, len(members[0].contexts)
            )
            for first in range(0, len(members), limit):
                part = members[first : first + limit]
                results.update(_draw_batch(model, part, shape, progress))
    return [results[index] for index in range(len(jobs))]


def prepare(
    model: "LoadedModel", requests: Sequence[Request], settings: SampleConfig | None = None
) -> list[Job]:
    """Check requests and lay out their images, without drawing. Raises ValueError as `generate` does."""
    return [_prepare(model, index, request, settings) for index, request in enumerate(requests)]


def batch_limit(config: TransformerConfig, num_slots: int, num_streams: int) -> int:
    """How many requests have the caches of their streams in CACHE_BYTES: a power of two from 1 to MAX_BATCH.

    A 7B model in bfloat16 that paints 768x768 px (2432 slots) takes 2.4 GiB a guided request: 2 of them.
    """
    fitting = min(max(1, CACHE_BYTES // cache_bytes(config, num_streams, num_slots)), MAX_BATCH)
    return 1 << (fitting.bit_length() - 1)


def _prepare(
    model: "LoadedModel", index: int, request: Request, settings: SampleConfig | None
) -> Job:
    """Check one request and lay out its image."""
    settings = request.settings or settings or SampleConfig()
    if not 0 <= request.seed <= MAX_SEED:
        raise ValueError(f"seed {request.seed}: want 0 to {MAX_SEED}")
    if len(request.prompt_ids) < 2:
        raise ValueError(
            f"prompt of {len(request.prompt_ids)} tokens: want at least start and separator"
        )
    pick(DECODERS, settings.decoder, "decoder")
    config, vocab = model.config, model.tokenizer.vocab
    check_room(request.width_px, request.height_px, len(request.prompt_ids), config)
    if settings.grammar == "original":
        original.check_layout(config)
    plan = plan_image(request.width_px, request.height_px, config, vocab)
    num_streams = len(settings.guidance_scales) + 1
    contexts = stream_contexts(request.prompt_ids, plan, vocab, num_streams)
    return Job(index, request, settings, plan, contexts)


def _group_of(job: Job) -> tuple:
    """What the members of one batch have in common."""
    settings = job.settings
    return (*job.plan.shape, len(job.contexts), settings.image_top_p < 1, settings.decoder)


def _shared_shape(jobs: Sequence[Job]) -> Shape:
    longest = max(len(job.contexts[0]) for job in jobs) - WINDOW
    prefill_length = padded_length(longest)
    total = max(len(job.contexts[0]) + len(job.plan.sentence) for job in jobs)
    num_slots = -(-max(total, prefill_length) // SLOT_BUCKET) * SLOT_BUCKET
    return Shape(num_slots, prefill_length)


def _draw_batch(
    model: "LoadedModel", jobs: Sequence[Job], shape: Shape, progress: Progress | None
) -> dict[int, Generated]:
    """Draw jobs of one size; the batch is filled up to a power of two with copies of the first."""
    batch = _make_batch(jobs, shape)
    vocab, plan, settings = model.tokenizer.vocab, jobs[0].plan, jobs[0].settings
    decode = pick(DECODERS, settings.decoder, "decoder")
    codes = (vocab.first_code_id, vocab.num_codes)
    runs = decode(model.params["transformer"], model.config.transformer, codes, batch)
    drawn: list[np.ndarray] = []
    waiting = None
    for run in runs:
        # One run late: the next one is already under way while this one travels to the host.
        if waiting is not None:
            _collect(waiting, drawn, jobs, progress)
        waiting = run
    _collect(waiting, drawn, jobs, progress)
    images = np.concatenate(drawn, axis=1).reshape(len(jobs), *plan.shape)
    return {
        job.index: Generated(plan.fill(image + vocab.first_code_id), image)
        for job, image in zip(jobs, images, strict=True)
    }


def _collect(run, drawn: list[np.ndarray], jobs: Sequence[Job], progress: Progress | None) -> None:
    """Fetch a finished run of codes and tell about it."""
    runs, row_index = jobs[0].plan.runs, len(drawn)
    start, stop = runs[row_index]
    drawn.append(np.asarray(run)[: len(jobs), : stop - start].astype(np.int32))
    if progress is not None:
        progress(Row(tuple(job.index for job in jobs), row_index, len(runs), drawn[-1]))


def _make_batch(jobs: Sequence[Job], shape: Shape) -> Batch:
    num_requests = 1 << (len(jobs) - 1).bit_length()
    filled = [*jobs, *[jobs[0]] * (num_requests - len(jobs))]
    contexts = [context for job in filled for context in job.contexts]
    seeds = [job.request.seed for job in filled]
    policy = make_policy([job.settings for job in filled], seeds)
    return Batch(contexts, jobs[0].plan, policy, shape.num_slots, shape.prefill_length)


def _draw_original(model: "LoadedModel", job: Job) -> Generated:
    """One request under the original's rules; its image, if any, may have another size than asked for."""
    ids = original.continue_ids(
        model, job.request.prompt_ids, job.settings, job.request.seed, job.request.num_tokens
    )
    return Generated(ids, original.first_image(ids, model))
