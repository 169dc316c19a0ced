"""What `Lumina.generate` is asked for, as requests of the sampler; and the best of several draws."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lumina_jax.checkpoint import LoadedModel
from lumina_jax.config import SampleConfig
from lumina_jax.dims import pick
from lumina_jax.sampling.batch import Job, Request
from lumina_jax.sampling.generate import (
    Generated,
    Progress,
    draw_jobs,
    network_of,
    prepare,
)
from lumina_jax.sampling.likelihood import likelihoods
from lumina_jax.sampling.policy import candidate_seeds
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.grid import FREE
from lumina_jax.unirep.image_tokens import whiten
from lumina_jax.unirep.tasks import text_to_image
from lumina_jax.unirep.text import TextTokenizer

Size = tuple[int, int]  # (width, height) px


class Ask(NamedTuple):
    """One image of a call, as its caller says it."""

    prompt: str
    size: Size
    seed: int
    negative_prompt: str | None
    given: np.ndarray | None  # Int[P, Q], FREE where a code is drawn


class Drawn(NamedTuple):
    """What became of an `Ask`."""

    result: Generated
    seed: int  # the one that drew it: `generate` draws the same again from this seed
    notes: dict[str, str]  # what the image's metadata tells besides prompt, seed and settings


def spread_asks(
    prompt: str | Sequence[str],
    size: Size | Sequence[Size],
    seed: int | Sequence[int],
    negative_prompt: str | None | Sequence[str | None] = None,
    given: np.ndarray | None | Sequence[np.ndarray | None] = None,
) -> tuple[list[Ask], bool]:
    """Every image of a call, and whether any argument was a list; single values serve all."""
    columns: dict[str, tuple[Any, bool]] = {
        "prompts": (prompt, isinstance(prompt, str)),
        "sizes": (size, isinstance(size[0], int | np.integer)),
        "seeds": (seed, isinstance(seed, int | np.integer)),
        "negative prompts": (negative_prompt, isinstance(negative_prompt, str | None)),
        "given codes": (given, isinstance(given, np.ndarray | None)),
    }
    rows, is_list = spread(columns)
    return [Ask(a, tuple(b), int(c), d, e) for a, b, c, d, e in rows], is_list


def spread(columns: Mapping[str, tuple[Any, bool]]) -> tuple[list[tuple], bool]:
    """Rows of arguments, (value, whether it is a single one) by its plural's name, and whether any was a list.

    Single values serve all rows. Raises ValueError of one line for lists of different lengths.
    """
    values = [[value] if single else list(value) for value, single in columns.values()]
    lengths = {name: len(column) for name, column in zip(columns, values, strict=True)}
    count = max(lengths.values())
    if any(length not in (1, count) for length in lengths.values()):
        *most, last = [f"{n} {name}" for name, n in lengths.items() if not columns[name][1]] or [""]
        numbers = f"{', '.join(most)} and {last}" if most else last
        raise ValueError(f"{numbers}: want one each, or equally many")
    full = [column * count if len(column) == 1 else column for column in values]
    return list(zip(*full, strict=True)), not all(single for _, single in columns.values())


def override(settings: SampleConfig, named: Mapping[str, Any]) -> SampleConfig:
    """The settings with those named that are not None; ValueError of one line for a name that is none.

    A guidance that is named alone is that of all rows: it ends a schedule.
    """
    fields = {name: name for name in asdict(settings)}
    given = {pick(fields, name, "setting"): v for name, v in named.items() if v is not None}
    if "guidance" in given:
        given.setdefault("guidance_schedule", ())
    for name, kind in (("guidance_schedule", float), ("branches", int)):
        if name in given:
            given[name] = tuple(map(kind, given[name]))
    return replace(settings, **given)


def request_of(ask: Ask, tokenizer: TextTokenizer, layout: str) -> Request:
    """The request to the sampler. Raises ValueError of one line for an empty text."""

    def ids(text: str) -> np.ndarray:
        return prompt_ids(text_to_image(*ask.size, text, layout), tokenizer)

    if ask.negative_prompt is not None and not ask.negative_prompt.strip():
        raise ValueError("empty negative prompt: say what to avoid, or leave it out")
    negative = None if ask.negative_prompt is None else ids(ask.negative_prompt)
    return Request(
        ids(ask.prompt), *ask.size, seed=ask.seed, negative_ids=negative, given=ask.given
    )


def draw(
    model: LoadedModel,
    asks: Sequence[Ask],
    settings: SampleConfig,
    best_of: int = 1,
    progress: bool | Progress = False,
) -> list[Drawn]:
    """Draw every image `best_of` times, from the seeds of `candidate_seeds`, and keep the likeliest of each.

    Raises ValueError of one line before anything is drawn.
    """
    if best_of < 1:
        raise ValueError(f"best_of {best_of}: want at least 1 image to choose from")
    if best_of > 1 and settings.grammar != "exact":
        raise ValueError("best_of: grammar 'original' has no likelihood; want grammar 'exact'")
    requests = [request_of(ask, model.tokenizer, model.config.image_layout) for ask in asks]
    seeds = [candidate_seeds(ask.seed, best_of) for ask in asks]
    candidates = [
        replace(request, seed=seed)
        for request, row in zip(requests, seeds, strict=True)
        for seed in row
    ]
    jobs = prepare(model, candidates, settings)
    results = _draw_all(model, jobs, progress)
    notes = [_notes(ask) for ask in asks]
    if best_of == 1:
        return [Drawn(*each) for each in zip(results, [a.seed for a in asks], notes, strict=True)]
    scores = likelihoods(network_of(model), jobs, [result.ids for result in results])
    drawn = []
    for index, row in enumerate(scores.reshape(len(asks), best_of)):
        best = int(np.argmax(row))
        note = {
            "best_of": f"{best_of} from seed {asks[index].seed}",
            "log_likelihood": f"{row[best]:.6f}",
        }
        result = results[index * best_of + best]
        drawn.append(Drawn(result, seeds[index][best], {**notes[index], **note}))
    return drawn


def whole_patches(picture: Image.Image, patch_px: int) -> np.ndarray:
    """A picture on white as uint8[Y, X, 3]; ValueError of one line unless its sides are multiples of `patch_px`."""
    if picture.width % patch_px or picture.height % patch_px:
        raise ValueError(
            f"picture of {picture.width}x{picture.height} px: want multiples of {patch_px} px"
        )
    return np.asarray(whiten(picture))


def _notes(ask: Ask) -> dict[str, str]:
    notes = {} if ask.negative_prompt is None else {"negative_prompt": ask.negative_prompt}
    if ask.given is not None:
        notes["given"] = f"{(ask.given != FREE).sum()} of {ask.given.size} codes"
    return notes


def _draw_all(
    model: LoadedModel, jobs: Sequence[Job], progress: bool | Progress
) -> list[Generated]:
    num_codes = sum(job.plan.shape[0] * job.plan.shape[1] for job in jobs)
    with codes_told(progress, num_codes) as told:
        return draw_jobs(model, jobs, told)


@contextmanager
def codes_told(progress: bool | Progress, num_codes: int | None) -> Iterator[Progress | None]:
    """What decoders tell their rows to: True is a bar of codes on stderr, up to `num_codes` where they are known."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    else:
        from tqdm import tqdm

        with tqdm(total=num_codes, unit="code", desc="painting") as bar:
            yield lambda row: bar.update(row.codes.size)
