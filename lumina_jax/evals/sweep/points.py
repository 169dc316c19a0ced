"""The points of a sweep: the same prompts with the same seeds every time, painted, judged, kept as they are found."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from lumina_jax.config import SampleConfig
from lumina_jax.data.scenes.detector import detect
from lumina_jax.evals.grading import plain
from lumina_jax.evals.intervals import Interval
from lumina_jax.evals.paired import mean_of_categories
from lumina_jax.evals.prompts import Prompt
from lumina_jax.evals.report import of_the_same_run, read_report, write_report
from lumina_jax.evals.scores import Outcome, outcome, summary
from lumina_jax.lumina import Lumina
from lumina_jax.sampling.batch import DrawnRow, Request
from lumina_jax.sampling.generate import Generated, generate
from lumina_jax.vqgan.sharded import decode_images

Point = dict[str, Any]  # what is kept of a point, as JSON holds it
Keep = Callable[[str, Callable[[], Any]], Point]  # (name, what finds it) -> the point


@dataclass(frozen=True)
class Amounts:
    """How much is measured."""

    timed_images: int = 16  # over which times are taken, and codes drawn greedily
    rounds: int = 7  # of interleaved calls that are timed, after one that compiles
    examples: int = 50  # of each task, for defects that are measured on tasks


@dataclass(frozen=True)
class Sweep:
    """One part of the command: a model, what it paints, and where points are kept."""

    model: Lumina
    prompts: tuple[Prompt, ...]
    first_seed: int  # prompt i is painted with seed `first_seed` + i
    keep: Keep
    amounts: Amounts = Amounts()
    others: tuple[Lumina, ...] = ()  # checkpoints beside the model

    @property
    def categories(self) -> list[str]:
        """Of every prompt."""
        return [prompt.category for prompt in self.prompts]

    @property
    def seeds(self) -> list[int]:
        """Of every prompt."""
        return [self.first_seed + index for index in range(len(self.prompts))]

    def requests(self, settings: SampleConfig) -> list[Request]:
        """Every prompt as the sampler takes it."""
        pairs = zip(self.prompts, self.seeds, strict=True)
        return [
            self.model.request(prompt.text, (prompt.width_px, prompt.height_px), seed, settings)
            for prompt, seed in pairs
        ]


def some_requests(sweep: Sweep, settings: SampleConfig, count: int) -> list[Request]:
    """Up to `count` prompts, evenly of all categories, at the trained square, so that they share a batch."""
    prompts = sweep.prompts[:: max(1, len(sweep.prompts) // count)][:count]
    size = sweep.model.trained_size
    return [
        sweep.model.request(prompt.text, size, sweep.first_seed + index, settings)
        for index, prompt in enumerate(prompts)
    ]


class Drawn(NamedTuple):
    """All prompts, drawn once."""

    images: list[Generated]
    passes: list[int]  # forward passes of each
    seconds: float


class Row(NamedTuple):
    """A line of a part's table."""

    name: str
    score: Interval
    gain: (
        Interval | None
    )  # the score less that of the part's base, prompt by prompt; None for the base
    more: dict[str, Any]  # other columns: numbers and Intervals


def keeper(path: Path, heading: Mapping[str, Any], progress: bool = True) -> Keep:
    """What keeps points in a JSON file, written after each; those of the same run that are there are not found again.

    Raises ValueError of one line for a file of another run.
    """
    found = of_the_same_run(heading, read_report(path, "points"), "points")

    def keep(name: str, find: Callable[[], Any]) -> Point:
        if name not in found:
            start = perf_counter()
            found[name] = json.loads(json.dumps(plain(find())))
            write_report(path, {**heading, "points": found})
            if progress:
                print(f"{name}: {perf_counter() - start:.0f} s", flush=True)
        return found[name]

    return keep


def drawn(sweep: Sweep, settings: SampleConfig) -> Drawn:
    """Draw all prompts by grammar "exact"."""
    passes = [0] * len(sweep.prompts)

    def note(row: DrawnRow) -> None:
        for index in row.requests if row.passes is not None else ():
            passes[index] = int(row.passes or 0)

    requests = sweep.requests(settings)
    start = perf_counter()
    images = generate(sweep.model.loaded, requests, settings, progress=note)
    return Drawn(images, passes, perf_counter() - start)


def judged(sweep: Sweep, codes: Sequence[np.ndarray | None]) -> list[bool]:
    """Whether each image shows what its prompt asks; one that cannot be read does not."""
    model, there = sweep.model, [each for each in codes if each is not None]
    pixels = iter(decode_images(model.vqgan_params, there, model.config.vqgan, model.layout))
    return [
        each is not None and outcome(prompt, seed, detect(next(pixels))).right
        for each, prompt, seed in zip(codes, sweep.prompts, sweep.seeds, strict=True)
    ]


def painted(sweep: Sweep, **settings: Any) -> Point:
    """{"right", "seconds"} of all prompts, painted with the model's own settings but for those named."""
    found = drawn(sweep, replace(sweep.model.settings, **settings))
    return {
        "right": judged(sweep, [image.codes for image in found.images]),
        "seconds": found.seconds,
    }


def score_of(sweep: Sweep, point: Point) -> Interval:
    """The overall score of the six categories."""
    pairs = zip(sweep.prompts, sweep.seeds, point["right"], strict=True)
    outcomes = [Outcome(prompt, seed, (), "", right, False) for prompt, seed, right in pairs]
    overall = summary(outcomes)["overall"]
    return {"n": overall["prompts"], **{name: overall[name] for name in ("score", "low", "high")}}


def gain_of(sweep: Sweep, base: Point, point: Point) -> Interval:
    """The overall score of a point less that of `base`, prompt by prompt."""
    return mean_of_categories(differences(base, point), sweep.categories)


def differences(base: Point, point: Point) -> list[int]:
    """1 where the image of `point` alone is right, -1 where that of `base` alone is."""
    return [int(b) - int(a) for a, b in zip(base["right"], point["right"], strict=True)]


def row_of(sweep: Sweep, name: str, point: Point, base: Point | None, **more: Any) -> Row:
    """A line of scores; `base`: None for the base itself."""
    gain = None if base is None else gain_of(sweep, base, point)
    return Row(name, score_of(sweep, point), gain, more)


def prompt_by_prompt(sweep: Sweep, find: Callable[[Request], Any], settings: SampleConfig) -> list:
    """What `find` says of every request, one after the other, with a bar."""
    from tqdm import tqdm

    return [find(each) for each in tqdm(sweep.requests(settings), unit="image", leave=False)]


def points_of(sweep: Sweep, named: Mapping[str, Mapping[str, Any]]) -> dict[str, Point]:
    """Paint all prompts with every one of the named settings."""
    return {
        name: sweep.keep(name, partial(painted, sweep, **settings))
        for name, settings in named.items()
    }
