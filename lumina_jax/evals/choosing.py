"""Which settings suit a checkpoint's answers, task by task, found on examples that the protocol never scores.

A task is tried greedy at every scale of GUIDANCES, then at the best one with every top-k of TOP_KS; words are drawn
without guidance. No choice, which leaves the task's row in `TASKS`, is tried too, and kept where nothing is better.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lumina_jax.config import TaskSampling
from lumina_jax.dims import pick
from lumina_jax.evals.answering import answers
from lumina_jax.evals.grading import grade
from lumina_jax.evals.protocol import EXAMPLES, KINDS, examples
from lumina_jax.evals.report import heading, of_the_same_run
from lumina_jax.lumina import Lumina
from lumina_jax.token_model import OWN_SETTINGS, check_tasks
from lumina_jax.unirep.tasks import TASKS

GUIDANCES = (1.0, 1.25, 1.5, 2.0)
TOP_KS = (1, 2, 4, 20)  # codes, the first one with every guidance
TEXT_TOP_KS = (1, 2)


def choose_settings(
    model: Lumina,
    tasks: Sequence[str],
    num: int,
    *,
    progress: bool = True,
    earlier: Mapping[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """A report {…, "tasks": {task: {"tried": [{"settings", "score"}], "best": settings}}} of about `num` examples each.

    A task with KINDS has equally many of each, at least `num` together. A conversation's earlier turns are drawn with
    what was chosen for their tasks, if that was before. `save` and `earlier` are those of `report.score_tasks`.
    Afterwards the model itself has the chosen settings.
    """
    report = {**heading(model), "num": num}
    found = of_the_same_run(report, earlier)
    for task, row in found.items():
        _give(model, task, row["best"])
    for task in tasks:
        if task in found:
            continue
        tried, best = _try(model, task, num, progress)
        _give(model, task, best)
        found[task] = {"tried": tried, "best": best}
        if save is not None:
            save({**report, "tasks": found})
    return {**report, "tasks": found}


def chosen(report: Mapping[str, Any]) -> tuple[TaskSampling, ...]:
    """What a report of `choose_settings` chose, without the tasks for which nothing is better than no choice.

    Raises ValueError of one line for a report of something else.
    """
    try:
        best = {task: row["best"] for task, row in report["tasks"].items()}
        rows = tuple(TaskSampling(task, **settings) for task, settings in best.items() if settings)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            "holds no choice of settings; want what `--choose-settings` wrote"
        ) from None
    check_tasks(rows)
    return rows


def check_choosable(tasks: Sequence[str]) -> None:
    """ValueError of one line for a task that has nothing to choose here."""
    for task in tasks:
        if task in OWN_SETTINGS:
            raise ValueError(
                f"{task} is drawn by the checkpoint's own settings: choose its guidance without --tasks"
            )
        pick(EXAMPLES, task, "task with settings")


def _try(
    model: Lumina, task: str, num: int, progress: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that was tried of one task, and the best settings, the first of equals."""
    of_kind = -(-num // KINDS.get(task, 1))
    asked, tried = examples(task, of_kind, "choose"), []

    def attempt(**settings: Any) -> tuple[float, dict[str, Any]]:
        _give(model, task, settings)
        given = [answer.last for answer in answers(model, asked, progress)]
        summary = grade(asked, given).summary
        assert summary is not None
        tried.append({"settings": settings, "score": summary["score"]})
        if progress:
            told = ", ".join(f"{name} {value:g}" for name, value in settings.items())
            print(f"{task:16} {told or 'its own row':32} {summary['score']:7.3f}", flush=True)
        return summary["score"] * (1 if summary["higher_is_better"] else -1), settings

    found = [attempt()]
    if TASKS[task].answer == "text":
        found += [attempt(text_top_k=top_k) for top_k in TEXT_TOP_KS]
    else:
        found += [attempt(guidance=scale, image_top_k=TOP_KS[0]) for scale in GUIDANCES]
        scale = _best(found[1:])["guidance"]
        found += [attempt(guidance=scale, image_top_k=top_k) for top_k in TOP_KS[1:]]
    return tried, _best(found)


def _best(found: Sequence[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    return max(found, key=lambda each: each[0])[1]


def _give(model: Lumina, task: str, settings: Mapping[str, Any]) -> None:
    """Make `settings` the model's own of a task, none where there are none."""
    others = tuple(row for row in model.by_task if row.task != task)
    own = (TaskSampling(task, **settings),) if settings else ()
    model.by_task = others + own
