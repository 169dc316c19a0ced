"""One run of the protocol: every task answered and scored, beside its chance level and ceiling, as one JSON."""

import json
from collections.abc import Mapping, Sequence
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
from lumina_jax.evals.reconstruction import vqgan_round_trip
from lumina_jax.evals.scores import commit
from lumina_jax.lumina import Lumina

TOLD_BESIDE = (  # numbers of a summary without which its main one could mislead
    "preserved",
    "all_right",
    "limbs",
    "with_colour",
)


def chosen_tasks(names: Sequence[str]) -> list[str]:
    """The tasks that names stand for, "all" for every one, in the protocol's order; ValueError for an unknown one."""
    for name in names:
        pick({"all": None, **EXAMPLES}, name, "task")
    return [task for task in EXAMPLES if task in names or "all" in names]


def score_tasks(
    model: Lumina,
    tasks: Sequence[str],
    num: int = protocol.NUM_EXAMPLES,
    *,
    pictures: Path | None = None,
    with_levels: bool = True,
    progress: bool = True,
    **named: Any,
) -> dict[str, Any]:
    """The report of one run; `named`: settings that stand above those of `answering.settings_of`.

    `pictures`: a folder that gets a page of pictures a task. `with_levels`: chance and ceiling beside the scores, which
    are the same for every transformer on one VQGAN. Raises ValueError of one line for a model that has no room
    for a task's conversations.
    """
    found = {}
    for task in tasks:
        examples = protocol.examples(task, num)
        given = answers(model, examples, progress, **named)
        found[task] = _task_report(model, examples, given, named)
        if with_levels:
            found[task] |= levels(model, examples)
        if pictures is not None:
            scores = [row["score"] for row in found[task]["results"]]
            save_page(page(task, examples, given, scores), pictures / f"{task}.png")
        if progress:
            print(line(task, found[task]), flush=True)
    return {**heading(model), "num": num, "tasks": found}


def levels(model: Lumina, examples: Sequence[Example]) -> dict[str, Any]:
    """{"chance": by whose answers, "ceiling"}: summaries under the same protocol, None where nothing can be drawn."""
    round_trip = vqgan_round_trip(model.vqgan_params, model.config.vqgan)
    return plain({"chance": chance(examples), "ceiling": ceiling(examples, round_trip).summary})


def heading(model: Lumina) -> dict[str, Any]:
    """What a report says of the run itself."""
    return {
        "protocol": protocol.VERSION,
        "scenes_seed": HELD_OUT_SEED,
        "checkpoint": model.checkpoint,
        "precision": model.precision,
        "machine": f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}",
        "commit": commit(),
        "model": config_to_dict(model.config),
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


def _task_report(
    model: Lumina,
    examples: Sequence[Example],
    given: Sequence[Answer],
    named: Mapping[str, Any],
) -> dict[str, Any]:
    graded = grade(examples, [answer.last for answer in given])
    drawn_by = {
        turn.task: settings_of(turn.task, model.settings, named) for turn in examples[0].turns
    }
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
