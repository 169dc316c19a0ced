"""Where a run's records come from; frozen dataclasses like those of `experiment.py`, which holds them."""

import posixpath
from dataclasses import dataclass
from typing import Literal

from lumina_jax.config import require

HELD_OUT_SEED = 2**31 - 1  # of the scenes that models are scored on: no training source may have it


@dataclass(frozen=True)
class ScenesSource:
    """The embedded dataset, drawn on demand: a pure function of (seed, index)."""

    name: str
    target_px: int  # side of the square whose area the images have
    num_records: int
    seed: int = 0
    # (width, height) px; empty: every allowed crop up to max_ratio
    sizes: tuple[tuple[int, int], ...] = ()
    max_ratio: float = 2.0  # when `sizes` is empty
    # also the shapes and the colour kept from the transformer, for the VQGAN
    reserved: bool = False
    # for the transformer: a shape that every scene shows, reserved or not, beside others that are not reserved
    shows: str = ""
    # share of answer images (segmentation, depth, …) instead of renders, for the VQGAN
    answers: float = 0.0
    # for the VQGAN: side of random square crops; 0 trains on whole images, one size a batch
    crop_px: int = 0
    # (row of data.recipes.RECIPES, weight)
    tasks: tuple[tuple[str, float], ...] = (("text_to_image", 1.0),)

    def __post_init__(self) -> None:
        require(
            self.seed != HELD_OUT_SEED,
            f"source {self.name}: seed {self.seed} is that of the scenes that models are scored on; use another",
        )


@dataclass(frozen=True)
class RecordSource:
    """Pre-tokenised ArrayRecord shards."""

    name: str
    path: str


@dataclass(frozen=True)
class DataConfig:
    """Where records come from."""

    sources: tuple[ScenesSource | RecordSource, ...] = ()
    seed: int = 0  # order and mixture
    num_workers: int = 0  # loader processes, 0: threads; the order does not depend on it
    # records longer than a stage's max_tokens: refused, or left out with a warning that counts and names them
    too_long: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        require(self.num_workers >= 0, f"num_workers {self.num_workers}: want 0 (threads) or more")
        require(
            self.too_long in ("error", "skip"),
            f"too_long {self.too_long!r}: want 'error' or 'skip'",
        )


def origin(source: ScenesSource | RecordSource) -> str | int:
    """What two sources of the same records share; a path however it is spelled."""
    return posixpath.normpath(source.path) if isinstance(source, RecordSource) else source.seed
