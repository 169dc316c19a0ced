"""Requests to image sentences: groups what can share compiled programs, draws it, returns it in order."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lumina_jax.config import ModelConfig, SampleConfig, TransformerConfig
from lumina_jax.dims import pick
from lumina_jax.ops.cache import cache_bytes
from lumina_jax.sampling import DECODERS, original, staggered
from lumina_jax.sampling.batch import SLOT_BUCKET, DrawnRow, Job, Network, Request, round_up
from lumina_jax.sampling.drafts import DRAFTS
from lumina_jax.sampling.grammar import check_room, plan_image, warn_untrained
from lumina_jax.sampling.guidance import stream_contexts
from lumina_jax.sampling.placement import with_code_head
from lumina_jax.sampling.policy import MAX_SEED
from lumina_jax.sampling.sequential import inference_config
from lumina_jax.sharding import Layout, batch_ways

if TYPE_CHECKING:
    from lumina_jax.checkpoint import LoadedModel

MAX_BATCH = 32  # requests that share a batch, where the cache leaves room for them
CACHE_BYTES = 8 * 2**30  # what the keys and values of a batch may take


class Generated(NamedTuple):
    """What a request became."""

    ids: (
        np.ndarray
    )  # int32: the image sentence; with grammar "original" all that follows the prompt
    codes: (
        np.ndarray | None
    )  # int32[P, Q]; None where grammar "original" wrote no image that can be read


Progress = Callable[[DrawnRow], object]


def generate(
    model: "LoadedModel",
    requests: Sequence[Request],
    settings: SampleConfig | None = None,
    progress: Progress | None = None,
    max_batch: int | None = None,
) -> list[Generated]:
    """Draw every request, up to `max_batch` at a time (None: `batch_limit`).

    Raises ValueError of one line, before anything is drawn, for a size, prompt or seed that the model cannot take, and
    for controls that exclude each other. Warns of a size that no training can have shown (`UntrainedSizeWarning`).
    """
    return draw_jobs(model, prepare(model, requests, settings), progress, max_batch)


def draw_jobs(
    model: "LoadedModel",
    jobs: Sequence[Job],
    progress: Progress | None = None,
    max_batch: int | None = None,
) -> list[Generated]:
    """Draw what `prepare` made, as `generate` does."""
    results: dict[int, Generated] = {}
    exact = [job for job in jobs if job.settings.grammar == "exact"]
    for job in jobs:
        if job.settings.grammar == "original":
            results[job.index] = _draw_original(model, job)
    network = network_of(model)
    for _, group in groupby(sorted(exact, key=_group_of), key=_group_of):
        members = list(group)
        results.update(_draw(network, members, max_batch or _limit(model, members), progress))
    return [results[index] for index in range(len(jobs))]


def network_of(model: "LoadedModel") -> Network:
    """The model's transformer as decoders use it."""
    vocab = model.tokenizer.vocab
    codes = (vocab.first_code_id, vocab.num_codes)
    params = with_code_head(model.params["transformer"], codes, model.layout)
    return Network(params, inference_config(model.config.transformer), codes, model.layout)


def prepare(
    model: "LoadedModel", requests: Sequence[Request], settings: SampleConfig | None = None
) -> list[Job]:
    """Check requests and lay out their images, without drawing. Raises and warns as `generate` does."""
    return [_prepare(model, index, request, settings) for index, request in enumerate(requests)]


def batch_limit(
    config: TransformerConfig, num_slots: int, num_streams: int, layout: Layout | None = None
) -> int:
    """How many requests have the caches of their streams in CACHE_BYTES: a power of two from 1 to MAX_BATCH.

    A 7B model in bfloat16 that paints 768x768 px (2432 slots) takes 2.4 GiB a guided request: 2 of them.
    Both limits are of one device: a mesh splits a cache over all of them, requests over those of its batch axes.
    """
    num_devices = 1 if layout is None else layout.mesh.size
    ways = batch_ways(layout)
    room = num_devices * CACHE_BYTES // cache_bytes(config, num_streams, num_slots)
    fitting = min(max(ways, room), MAX_BATCH * ways)
    return (1 << ((fitting // ways).bit_length() - 1)) * ways


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
    pick(DRAFTS, settings.drafts, "draft")
    config, vocab = model.config, model.tokenizer.vocab
    size = request.width_px, request.height_px
    check_room(*size, len(request.prompt_ids), config)
    warn_untrained(*size, config)
    if settings.grammar == "original":
        original.check_layout(config)
    _check_controls(request, settings, config)
    plan = plan_image(*size, config, vocab, request.given)
    num_streams = len(settings.guidance_scales) + 1
    contexts = stream_contexts(request.prompt_ids, plan, vocab, num_streams, request.negative_ids)
    job = Job(index, request, settings, plan, contexts)
    if settings.decoder == "staggered":
        staggered.check(job)
    return job


def _check_controls(request: Request, settings: SampleConfig, config: ModelConfig) -> None:
    """ValueError of one line where given codes or a negative prompt and the settings exclude each other."""
    if settings.grammar == "original" and request.given is not None:
        raise ValueError("given codes: grammar 'original' draws all; want grammar 'exact'")
    if request.negative_ids is None:
        return
    if settings.grammar == "original":
        raise ValueError("negative prompt: grammar 'original' reads none; want grammar 'exact'")
    if not settings.guidance_scales:
        raise ValueError("negative prompt: guidance 1 reads none; ask for more guidance")
    size = request.width_px, request.height_px
    check_room(*size, len(request.negative_ids), config, "negative prompt")


def decoder_of(job: Job) -> str:
    """The row of DECODERS that draws a job.

    "sequential" goes from run to run; where codes are given amid those it would draw, "jacobi" draws the same ones.
    """
    name = job.settings.decoder
    return "jacobi" if name == "sequential" and job.plan.scattered else name


def _group_of(job: Job) -> tuple:
    """What requests that share programs have in common."""
    settings = job.settings
    cuts = settings.image_top_p < 1, settings.image_min_p > 0, settings.has_schedule
    return (
        len(job.contexts),
        *cuts,
        decoder_of(job),
        settings.window,
        settings.drafts,
        settings.branches,
        settings.lag,
    )


def _limit(model: "LoadedModel", jobs: Sequence[Job]) -> int:
    total = max(job.num_tokens for job in jobs)
    settings = jobs[0].settings
    num_slots = round_up(total + settings.window + len(settings.branches), SLOT_BUCKET)
    num_streams = len(jobs[0].contexts)
    return batch_limit(model.config.transformer, num_slots, num_streams, model.layout)


def _draw(
    network: Network, jobs: Sequence[Job], limit: int, progress: Progress | None
) -> dict[int, Generated]:
    """Draw requests of one group, telling about every row."""
    jobs_by_index = {job.index: job for job in jobs}
    drawn: dict[int, list[np.ndarray]] = {job.index: [] for job in jobs}
    for row in DECODERS[decoder_of(jobs[0])](network, jobs, limit):
        for index, codes in zip(row.requests, row.codes, strict=True):
            drawn[index].append(codes)
        if progress is not None:
            progress(row)
    return {
        index: finish(jobs_by_index[index], np.concatenate(rows), network)
        for index, rows in drawn.items()
    }


def finish(job: Job, codes: np.ndarray, network: Network) -> Generated:
    """A request's codes, top to bottom, as its result."""
    codes = codes.reshape(job.plan.shape)
    return Generated(job.plan.fill(codes + network.codes[0]), codes)


def _draw_original(model: "LoadedModel", job: Job) -> Generated:
    """One request under the original's rules; its image, if any, may have another size than asked for."""
    ids = original.continue_ids(
        model, job.request.prompt_ids, job.settings, job.request.seed, job.request.num_tokens
    )
    return Generated(ids, original.first_image(ids, model))
