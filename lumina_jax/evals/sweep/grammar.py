"""Grammar "exact" against the original's rules and against none: scores, what cannot be read, time."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from lumina_jax.config import SampleConfig
from lumina_jax.evals.intervals import share
from lumina_jax.evals.sweep.points import (
    Point,
    Row,
    Sweep,
    drawn,
    judged,
    prompt_by_prompt,
    row_of,
    some_requests,
)
from lumina_jax.evals.sweep.timing import interleaved
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import generate
from lumina_jax.sampling.original import Rule, allowed_range, any_id, continue_ids, first_image

EXACT = "exact"
RULES: Mapping[str, Rule] = {"original": allowed_range, "none": any_id}
TIMED_IMAGES = 4  # one after the other, as these rules draw them


def sweep_grammar(sweep: Sweep) -> list[Row]:
    """Every grammar against "exact", on the same prompts with the same settings."""
    settings = replace(sweep.model.settings, decoder="sequential", guidance_schedule=())
    settings = replace(settings, image_guidance=None)  # what the original's rules have not
    found = {EXACT: sweep.keep(EXACT, partial(_exact, sweep, settings))}
    for name, rule in RULES.items():
        found[name] = sweep.keep(name, partial(_by_rule, sweep, settings, rule))
    times = sweep.keep("times", partial(_times, sweep, settings))
    rows = []
    for name, point in found.items():
        base = None if name == EXACT else found[EXACT]
        more = {
            "unreadable": share(point["unreadable"]),
            "another size": share(point["another_size"]),
            "seconds an image": times[name]["seconds"] / min(TIMED_IMAGES, len(sweep.prompts)),
            "time, times exact": times[name]["ratio"],
        }
        rows.append(row_of(sweep, name, point, base, **more))
    return rows


def read_back(sweep: Sweep, codes: list[np.ndarray | None]) -> Point:
    """{"right", "unreadable", "another_size"} of every image."""
    patch_px = sweep.model.config.grid.patch_px
    asked = [(p.height_px // patch_px, p.width_px // patch_px) for p in sweep.prompts]
    return {
        "right": judged(sweep, codes),
        "unreadable": [each is None for each in codes],
        "another_size": [
            each is not None and each.shape != shape
            for each, shape in zip(codes, asked, strict=True)
        ],
    }


def _exact(sweep: Sweep, settings: SampleConfig) -> Point:
    return read_back(sweep, [image.codes for image in drawn(sweep, settings).images])


def _by_rule(sweep: Sweep, settings: SampleConfig, rule: Rule) -> Point:
    draw = partial(draw_by_rule, sweep, settings=settings, rule=rule)
    return read_back(sweep, prompt_by_prompt(sweep, draw, settings))


def draw_by_rule(
    sweep: Sweep, request: Request, settings: SampleConfig, rule: Rule
) -> np.ndarray | None:
    """The codes of the first image that is written after the prompt, up to the separator; None: none can be read."""
    model = sweep.model.loaded
    ids = continue_ids(model, request.prompt_ids, settings, request.seed, rule=rule)
    return first_image(ids, model)


def _times(sweep: Sweep, settings: SampleConfig) -> Point:
    requests = some_requests(sweep, settings, TIMED_IMAGES)

    def exact() -> None:
        for request in requests:
            generate(sweep.model.loaded, [request], settings)

    def by_rule(rule: Rule) -> None:
        for request in requests:
            draw_by_rule(sweep, request, settings, rule)

    calls = {EXACT: exact, **{name: partial(by_rule, rule) for name, rule in RULES.items()}}
    return dict(interleaved(calls, EXACT, sweep.amounts.rounds))
