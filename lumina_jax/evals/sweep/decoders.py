"""Every decoder on the same prompts: score, passes of the network, time, and whether it draws the very same codes."""

import hashlib
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lumina_jax.config import SampleConfig
from lumina_jax.evals.intervals import mean, share
from lumina_jax.evals.sweep.points import (
    Point,
    Row,
    Sweep,
    drawn,
    judged,
    row_of,
    some_requests,
)
from lumina_jax.evals.sweep.timing import interleaved
from lumina_jax.sampling import DECODERS
from lumina_jax.sampling.generate import generate

BASE = "sequential"
SIX = (1, 1, 1, 2, 2, 3)  # depths of second guesses
VARIANTS: dict[str, dict[str, Any]] = {  # beside every row of DECODERS as SampleConfig has it
    "jacobi, window 4": {"decoder": "jacobi", "window": 4},
    "jacobi, window 8": {"decoder": "jacobi", "window": 8},
    "jacobi, uniform drafts": {"decoder": "jacobi", "drafts": "uniform"},
    "jacobi, 6 branches": {"decoder": "jacobi", "branches": SIX},
    "coupled, 6 branches": {"decoder": "coupled", "branches": SIX},
    "staggered, lag 2": {"decoder": "staggered", "lag": 2},
}
TIED = (
    "sequential",
    "jacobi",
)  # decoders that draw the same codes as "sequential", token for token
SAME_WHEN_GREEDY = (*TIED, "coupled")  # … and of the likeliest codes there is one image only


def decoder_settings() -> dict[str, dict[str, Any]]:
    """What each row changes in the model's settings; "sequential" first."""
    plain = {
        name: getattr(SampleConfig(), name) for name in ("window", "drafts", "branches", "lag")
    }
    named = {name: {"decoder": name} for name in (BASE, *DECODERS)} | VARIANTS
    return {name: {**plain, **changes} for name, changes in named.items()}


def sweep_decoders(sweep: Sweep) -> list[Row]:
    """Every row against "sequential"; "as sequential" is the share of images with the very same codes.

    A share under 1 where a decoder promises the same codes tells of near-ties that rounding decided.
    """
    rows_of = decoder_settings()
    found = {name: sweep.keep(name, partial(_point, sweep, rows_of[name])) for name in rows_of}
    greedy = {
        name: sweep.keep(f"{name}, greedy", partial(_greedy, sweep, changes))
        for name, changes in rows_of.items()
        if changes["decoder"] in SAME_WHEN_GREEDY
    }
    times = {
        count: sweep.keep(f"times of {count}", partial(_times, sweep, count))
        for count in dict.fromkeys((1, sweep.amounts.timed_images))
    }
    rows = []
    for name, point in found.items():
        more: dict[str, Any] = {"passes": mean(point["passes"])}
        if rows_of[name]["decoder"] in TIED:
            more["as sequential"] = _same(found[BASE], point)
        if name in greedy:
            more["greedy as sequential"] = _same(greedy[BASE], greedy[name])
        for count, times_of in times.items():
            label = "1 image" if count == 1 else f"{count} images"
            more[f"seconds, {label}"] = times_of[name]["seconds"]
            more[f"time of {label}"] = times_of[name]["ratio"]
        rows.append(row_of(sweep, name, point, None if name == BASE else found[BASE], **more))
    return rows


def _point(sweep: Sweep, changes: dict[str, Any]) -> Point:
    found = drawn(sweep, replace(sweep.model.settings, **changes))
    codes = [image.codes for image in found.images]
    return {"right": judged(sweep, codes), "passes": found.passes, "codes": _digests(codes)}


def _greedy(sweep: Sweep, changes: dict[str, Any]) -> Point:
    """The likeliest codes of some prompts."""
    settings = replace(sweep.model.settings, image_top_k=1, **changes)
    requests = some_requests(sweep, settings, sweep.amounts.timed_images)
    return {"codes": _digests([each.codes for each in generate(sweep.model.loaded, requests)])}


def _digests(codes: list[np.ndarray | None]) -> list[str]:
    """What tells images apart: 12 hex digits of the codes of each."""
    return [hashlib.sha256(np.asarray(each, "<i4").tobytes()).hexdigest()[:12] for each in codes]


def _same(base: Point, point: Point) -> dict[str, float]:
    return share([a == b for a, b in zip(base["codes"], point["codes"], strict=True)])


def _times(sweep: Sweep, count: int) -> Point:
    """Seconds of drawing `count` images together."""

    def call(settings: SampleConfig) -> None:
        generate(sweep.model.loaded, some_requests(sweep, settings, count))

    own = sweep.model.settings
    settings = {name: replace(own, **changes) for name, changes in decoder_settings().items()}
    calls = {name: partial(call, each) for name, each in settings.items()}
    return dict(interleaved(calls, BASE, sweep.amounts.rounds))
