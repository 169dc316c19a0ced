"""What a decoder is given, requests ready to be drawn, and what it tells, rows of codes as they are finished."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from lumina_jax.config import SampleConfig, TransformerConfig
from lumina_jax.sampling.grammar import ImagePlan
from lumina_jax.sharding import Layout, batch_ways

SLOT_BUCKET = 128  # caches are multiples of this, so that similar requests share a program


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


class Job(NamedTuple):
    """A request with what is known about it before drawing."""

    index: int
    request: Request
    settings: SampleConfig
    plan: ImagePlan
    contexts: list[np.ndarray]  # of every stream: prompt and the image's first forced tokens


class DrawnRow(NamedTuple):
    """A run of codes without a forced token between them, of some requests, finished: a row of the image in Uni-Rep."""

    requests: tuple[int, ...]  # `Job.index` of each
    row_index: int
    codes: np.ndarray  # int32[len(requests), length of the run]
    passes: int | None = None  # with the last row: forward passes that the request took


class Decode(Protocol):
    """A row of DECODERS."""

    def __call__(self, network: Network, jobs: Sequence[Job], limit: int) -> Iterator[DrawnRow]:
        """Draw jobs of equally many streams, up to `limit` at a time; rows of a request come top to bottom."""
        ...


def padded_count(num_requests: int, layout: Layout | None) -> int:
    """How many requests a batch of so many is filled up to: a power of two that the mesh can split."""
    return round_up(1 << (num_requests - 1).bit_length(), batch_ways(layout))


def round_up(length: int, multiple: int) -> int:
    """The least multiple that is at least `length`."""
    return -(-length // multiple) * multiple
