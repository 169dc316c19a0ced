"""What a decoder is given, requests ready to be drawn, and what it tells, rows of codes as they are finished."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from lumina_jax.config import SampleConfig, TransformerConfig
from lumina_jax.sampling.grammar import ImagePlan
from lumina_jax.sampling.guidance import scheduled_scales
from lumina_jax.sampling.policy import Policy, make_policy
from lumina_jax.sharding import Layout, batch_ways

SLOT_BUCKET = 128  # caches are multiples of this, so that similar requests share a program
SENTENCE_BUCKET = 128  # and tables of image sentences of this


class Network(NamedTuple):
    """The transformer of a model as decoders use it."""

    # with the rows of the image codes in the place of the whole head (`placement.with_code_head`)
    params: Any
    config: TransformerConfig
    codes: tuple[int, int]  # (first id, how many): the image codes
    layout: Layout | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """One image to draw. The result depends on these fields and the settings only, not on the other requests."""

    prompt_ids: np.ndarray  # [start, text …, separator]
    width_px: int
    height_px: int
    seed: int = 0
    settings: SampleConfig | None = None  # None: those of the call
    # grammar "original" only: exactly this many tokens; None: until the separator
    num_tokens: int | None = None
    # [start, text …, separator]: what guidance moves away from; None: no prompt at all
    negative_ids: np.ndarray | None = None
    # Int[P, Q]: codes that stand already, FREE (-1) where one is drawn. A drawn code sees those before it alone
    given: np.ndarray | None = None
    # how many tokens prompt and image will have in a later request of a series, which then finds its program compiled
    padded_to: int = 0


class Job(NamedTuple):
    """A request with what is known about it before drawing."""

    index: int
    request: Request
    settings: SampleConfig
    plan: ImagePlan
    contexts: list[np.ndarray]  # of every stream: prompt and the image's lead

    @property
    def num_tokens(self) -> int:
        """How many tokens the longest stream has with its image."""
        return self.num_context_tokens - len(self.plan.lead) + len(self.plan.sentence)

    @property
    def num_context_tokens(self) -> int:
        """How many tokens the longest stream has before the image's codes, or will have in a series of requests."""
        after_lead = len(self.plan.sentence) - len(self.plan.lead)
        longest = max(len(context) for context in self.contexts)
        return max(longest, self.request.padded_to - after_lead)


class DrawnRow(NamedTuple):
    """A run of codes that the layout does not part, of some requests, finished: a row of the image in Uni-Rep.

    Given codes are told with the drawn ones.
    """

    requests: tuple[int, ...]  # `Job.index` of each
    row_index: int
    codes: np.ndarray  # int32[len(requests), length of the run]
    passes: int | None = None  # with the last row: forward passes that the request took


class Decode(Protocol):
    """A row of DECODERS."""

    def __call__(self, network: Network, jobs: Sequence[Job], limit: int) -> Iterator[DrawnRow]:
        """Draw jobs of equally many streams, up to `limit` at a time; rows of a request come top to bottom."""
        ...


def policy_of(jobs: Sequence[Job], num_tokens: int, whole: bool = False) -> Policy:
    """The policy of jobs of one group, whose schedules have a scale for each of `num_tokens` tokens of the sentence.

    `whole`: with every array, needed or not, so that jobs with equally many streams are one group.
    """
    settings = [job.settings for job in jobs]
    schedule = None
    if settings[0].guidance_scales and (whole or settings[0].has_schedule):
        schedule = np.ones((len(jobs), num_tokens), np.float32)
        for row, job in zip(schedule, jobs, strict=True):
            row[:] = job.settings.guidance_scales[0]
            if job.settings.has_schedule:
                scales = scheduled_scales(job.settings.guidance_schedule, job.plan)
                row[: len(scales)] = scales
    seeds = [job.request.seed for job in jobs]
    return make_policy(settings, seeds, schedule=schedule, whole=whole)


def padded_count(num_requests: int, layout: Layout | None) -> int:
    """How many requests a batch of so many is filled up to: a power of two that the mesh can split."""
    return round_up(1 << (num_requests - 1).bit_length(), batch_ways(layout))


def round_up(length: int, multiple: int) -> int:
    """The least multiple that is at least `length`."""
    return -(-length // multiple) * multiple
