"""One run of the protocol: every task answered and scored, beside its chance level and ceiling, as one JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from lumina_jax.checkpoint import write_json
from lumina_jax.config_json import config_to_dict
from lumina_jax.data_config import HELD_OUT_SEED
from lumina_jax.dims import pick
from lumina_jax.evals import protocol
from lumina_jax.evals.answering import Answer, answers, settings_of
from lumina_jax.evals.example import Example
from lumina_jax.evals.grading import ceiling, chance, grade, plain
from lumina_jax.evals.pages import page, save_page
from lumina_jax.evals.protocol import EXAMPLES
from lumina_jax.evals.reconstruction import (
    reconstruction_scores,
    summarised,
    vqgan_round_trip,
)
from lumina_jax.evals.scores import commit
from lumina_jax.lumina import Lumina

RECONSTRUCTION = "reconstruction"  # what the VQGAN keeps, beside the tasks that are answered
TOLD_BESIDE = (  # numbers of a summary without which its main one could mislead
    "preserved",
    "all_right",
    "limbs",
    "with_colour",
)


def chosen_tasks(names: Sequence[str]) -> list[str]:
    """The tasks that names stand for in the protocol's order, RECONSTRUCTION last; "all" is for every one.

    Raises ValueError for an unknown one.
    """
    known = (*EXAMPLES, RECONSTRUCTION)
    for name in names:
        pick({"all": None, **dict.fromkeys(known)}, name, "task")
    return [task for task in known if task in names or "all" in names]


def score_tasks(
    model: Lumina,
    tasks: Sequence[str],
    num: int = protocol.NUM_EXAMPLES,
    *,
    pictures: Path | None = None,
    with_levels: bool = True,
    progress: bool = True,
    earlier: Mapping[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
    **named: Any,
) -> dict[str, Any]:
    """The report of one run; `named`: settings that stand above those of `answering.settings_of`.

    `pictures`: a folder that gets a page of pictures a task. `with_levels`: chance and ceiling beside the scores, which
    are the same for every transformer on one VQGAN. `save` is called with the report after each task, and `earlier`, a
    report of the same run that was cut off, gives the tasks it holds. Raises ValueError of one line for one of
    another run, and for a model that has no room for a task's conversations.
    """
    report: dict[str, Any] = {**heading(model), "num": num, "named": named}
    found = of_the_same_run(report, earlier)
    for task in tasks:
        sheet = None if pictures is None or task == RECONSTRUCTION else pictures / f"{task}.png"
        if _is_complete(found.get(task), with_levels, sheet):
            note = "  (from the report that was there)"
        else:
            found[task], note = _scored(model, task, num, named, with_levels, sheet, progress), ""
        if save is not None and not note:
            save({**report, "tasks": found})
        if progress:
            print("\n".join([line(task, found[task]) + note, *kind_lines(found[task])]), flush=True)
    return {**report, "tasks": {task: found[task] for task in tasks}}


def read_report(path: Path | None, of: str = "tasks") -> dict[str, Any] | None:
    """A report of tasks that was written there, None where there is none; ValueError for another file."""
    if path is None or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        return {**found, of: {**found[of]}}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: holds no report of {of}; name another file") from None


def of_the_same_run(
    report: Mapping[str, Any], earlier: Mapping[str, Any] | None, of: str = "tasks"
) -> dict[str, Any]:
    """The tasks of an earlier report of the same checkpoint, protocol, code, machine and settings."""
    if earlier is None:
        return {}
    now = json.loads(json.dumps(report))
    changed = [
        key for key in {*now, *earlier} - {of} if now.get(key, None) != earlier.get(key, None)
    ]
    if changed:
        raise ValueError(
            f"the report there is of another run (other {', '.join(sorted(changed))}): "
            "name another file, or delete it to start anew"
        )
    return dict(earlier[of])


def _is_complete(found: Mapping[str, Any] | None, with_levels: bool, sheet: Path | None) -> bool:
    """Whether nothing of a task's report is missing."""
    levels_there = found is not None and (not with_levels or "ceiling" in found)
    return levels_there and (sheet is None or sheet.is_file())


def _scored(
    model: Lumina,
    task: str,
    num: int,
    named: Mapping[str, Any],
    with_levels: bool,
    sheet: Path | None,
    progress: bool,
) -> dict[str, Any]:
    """A task's report, and its page of pictures."""
    if task == RECONSTRUCTION:
        round_trip = vqgan_round_trip(model.vqgan_params, model.config.vqgan)
        scores = reconstruction_scores(round_trip, num, progress)
        return {"scores": summarised(scores), "chance": {"other": None}, "ceiling": None}
    examples = protocol.examples(task, num)
    given = answers(model, examples, progress, **named)
    found = _task_report(model, examples, given, named)
    if with_levels:
        found |= levels(model, examples)
    if sheet is not None:
        save_page(page(task, examples, given, [row["score"] for row in found["results"]]), sheet)
    return found


def levels(model: Lumina, examples: Sequence[Example]) -> dict[str, Any]:
    """{"chance": by whose answers, "ceiling"}: summaries under the same protocol, None where nothing can be drawn."""
    round_trip = vqgan_round_trip(model.vqgan_params, model.config.vqgan)
    return plain({"chance": chance(examples), "ceiling": ceiling(examples, round_trip).summary})


def heading(model: Lumina) -> dict[str, Any]:
    """What a report says of the run itself."""
    own = {
        "precision": model.precision,
        "model": config_to_dict(model.config),
        "own_settings": config_to_dict(replace(model.settings, by_task=model.by_task)),
    }
    return {**run_heading(model.checkpoint), **own}


def run_heading(checkpoint: str | None) -> dict[str, Any]:
    """What every report says: by which protocol what was scored, by which code and where."""
    return {
        "protocol": protocol.VERSION,
        "scenes_seed": HELD_OUT_SEED,
        "checkpoint": checkpoint,
        "machine": f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}",
        "commit": commit(),
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """The report as a JSON file."""
    write_json(path, json.loads(json.dumps(report)))


def line(task: str, found: Mapping[str, Any]) -> str:
    """A task's scores as a line of text: the main number, its interval, TOLD_BESIDE, chance and ceiling."""
    row = found["scores"]
    interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
    inner = [f"{name} {row[name]['score']:.3f}" for name in TOLD_BESIDE if name in row]
    beside = {**found.get("chance", {}), "ceiling": found.get("ceiling")}
    told = [f"{name} {level['score']:.3f}" for name, level in beside.items() if level is not None]
    return "; ".join(
        [
            f"{task:24} {row['score']:7.3f}  {interval:18} {row['n']:4} x {row['metric']}",
            *inner,
            *told,
        ]
    )


def kind_lines(found: Mapping[str, Any]) -> list[str]:
    """A line a kind of a task's examples, where it has kinds, with the kind's chance and ceiling."""
    beside = {**found.get("chance", {}), "ceiling": found.get("ceiling")}
    rows = []
    for kind, row in _kinds(found["scores"]).items():
        levels = {name: _kinds(level).get(kind) for name, level in beside.items()}
        told = [f"{name} {level['score']:.3f}" for name, level in levels.items() if level]
        interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
        count = row.get("n", row.get("prompts"))
        rows.append("; ".join([f"  {kind:22} {row['score']:7.3f}  {interval:18} {count:4}", *told]))
    return rows


def _kinds(summary: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A summary's scores by kind, or by category."""
    summary = summary or {}
    return summary.get("kinds") or summary.get("categories") or {}


def _task_report(
    model: Lumina,
    examples: Sequence[Example],
    given: Sequence[Answer],
    named: Mapping[str, Any],
) -> dict[str, Any]:
    graded = grade(examples, [answer.last for answer in given])
    drawn_by = {turn.task: settings_of(turn.task, model, named) for turn in examples[0].turns}
    return {
        "scores": plain(graded.summary),
        "settings": {task: config_to_dict(settings) for task, settings in drawn_by.items()},
        "seeds": [examples[0].seed, examples[-1].seed],
        "results": [
            example_report(*each) for each in zip(examples, given, graded.results, strict=True)
        ],
    }


def example_report(example: Example, answer: Answer, result: Any) -> dict[str, Any]:
    """One example: what was said, the answers and truths in words, and its scores."""
    words = {"answer": answer.last, "truth": example.true_answer}
    return {
        "index": example.index,
        "kind": example.kind,
        "size": list(example.truth.size),
        "said": [turn.said for turn in example.turns],
        **{name: text for name, text in words.items() if isinstance(text, str)},
        **plain(result),
    }
