"""Answers to the protocol's examples, scored: a model's, those of chance, the truth after the VQGAN's round trip."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from lumina_jax.data.recipes import VIEWS_YAW_DEG
from lumina_jax.data.scenes.detector import detect
from lumina_jax.data.scenes.maps import pose
from lumina_jax.data.scenes.render import render
from lumina_jax.dims import pick
from lumina_jax.evals import scores
from lumina_jax.evals.example import Example, Images
from lumina_jax.evals.reconstruction import Reconstruct
from lumina_jax.evals.tasks.common import Evaluator, Summary
from lumina_jax.evals.tasks.keypoints import another_pose
from lumina_jax.evals.tasks.table import EVALUATORS
from lumina_jax.unirep.tasks import TASKS

SCORED_AS = {
    "next_edit": "edit",
    "chat": "question",
}  # rows of TASKS without an evaluator of their own
CHANCE_SEED = 0  # of whose answers an example is given instead of its own
WORD_DRAWS = 5  # other examples' answers that each question is given: words cost nothing to score

Given = Sequence[str | Images | None]  # an answer for every example, None where there is none


class Painted(NamedTuple):
    """Of a picture painted from a prompt of the six categories: `score` is 1 where all that it asks is seen."""

    score: float
    outcome: scores.Outcome


class Graded(NamedTuple):
    """The scores of answers to examples of one task."""

    summary: Summary | None  # None where no example has an answer
    results: list[
        Any
    ]  # one NamedTuple with a field `score` an example, None where it has no answer


def grade(examples: Sequence[Example], given: Given) -> Graded:
    """The score of each answer, and their summary with 95 % intervals."""
    results = [
        None if answer is None else score(example, answer)
        for example, answer in zip(examples, given, strict=True)
    ]
    found = [result for result in results if result is not None]
    return Graded(summarise(examples[0].task, found) if found else None, results)


def score(example: Example, answer: str | Images) -> Any:
    """One answer against its truth: a NamedTuple with a field `score`."""
    if example.prompt is not None:
        outcome = scores.outcome(example.prompt, example.seed, detect(np.asarray(answer[0])))
        return Painted(float(outcome.right), outcome)
    evaluator = evaluator_of(example.task)
    if isinstance(answer, str):
        return evaluator.score(example.truth, answer)
    several = TASKS[example.task].num_answer_images > 1
    return evaluator.score(example.truth, list(answer) if several else answer[0])


def summarise(task: str, results: Sequence[Any]) -> Summary:
    """All scores of a task as one: {"metric", "score", "low", "high", "n", "higher_is_better", …}."""
    if not isinstance(results[0], Painted):
        return evaluator_of(task).summarise(results)
    found = scores.summary([result.outcome for result in results])
    overall = found["overall"]
    main = {name: overall[name] for name in ("score", "low", "high")}
    others = {name: found[name] for name in ("categories", "exactly_as_asked", "named_background")}
    metric = "right, mean of categories"
    return {"metric": metric, **main, "n": len(results), "higher_is_better": True, **others}


def evaluator_of(task: str) -> Evaluator:
    """How answers to a row of TASKS are scored."""
    return pick(EVALUATORS, SCORED_AS.get(task, task), "evaluator")


def chance(examples: Sequence[Example]) -> dict[str, Summary | None]:
    """What the true answers of other examples of the task would score, by whose they are.

    "other": of any other example; pictures of the same size alone, once each. Words are drawn WORD_DRAWS times, from
    examples of all kinds and as "same_kind" of the same kind; "constant": the most frequent answer of the kind.
    "unchanged", of edits: the picture as it was. "another_pose": a random one where the figure is.
    "still", of views: the true first one each time.
    """
    if isinstance(examples[0].true_answer, str):
        draws = {"other": lambda e: "", "same_kind": lambda e: e.kind}
        found = {name: _of_others(examples, key, WORD_DRAWS) for name, key in draws.items()}
        return {**found, "constant": grade(examples, most_frequent(examples)).summary}
    found = {"other": _of_others(examples, lambda example: example.truth.size, 1)}
    if all(example.truth.before is not None for example in examples):
        before = [(render(e.truth.before, *e.truth.size),) for e in examples if e.truth.before]
        found["unchanged"] = grade(examples, before).summary
    if examples[0].task == "multi_view":
        first = [render(e.truth.scene, *e.truth.size, VIEWS_YAW_DEG[0]) for e in examples]
        still = [(picture,) * len(VIEWS_YAW_DEG) for picture in first]
        found["still"] = grade(examples, still).summary
    if examples[0].task == "pose":
        rng = np.random.default_rng(CHANCE_SEED)
        guesses = [(pose(another_pose(e.truth.scene, rng), *e.truth.size),) for e in examples]
        found["another_pose"] = grade(examples, guesses).summary
    return found


def most_frequent(examples: Sequence[Example]) -> list[str | Images]:
    """For every example the most frequent true answer, of its kind: the best that one answer to all can do."""
    answers: dict[str, Counter[str]] = {}
    for example in examples:
        answers.setdefault(example.kind, Counter())[str(example.true_answer)] += 1
    return [answers[example.kind].most_common(1)[0][0] for example in examples]


def ceiling(examples: Sequence[Example], round_trip: Reconstruct) -> Graded:
    """What the true answers score after the VQGAN has encoded and decoded them; words are as they are."""
    true = [example.true_answer for example in examples]
    return grade(
        examples,
        [a if isinstance(a, str) else tuple(round_trip(picture) for picture in a) for a in true],
    )


def others_answers(
    examples: Sequence[Example], key: Callable[[Example], Any], draws: int
) -> list[list[str | Images | None]]:
    """`draws` times an answer for every example, that of another one with the same `key`; None where there is none.

    The examples with the same key stand in a random circle: each gets the answers of those after it, never its own.
    """
    rng = np.random.default_rng(CHANCE_SEED)
    given: list[list[str | Images | None]] = [[None] * len(examples) for _ in range(draws)]
    groups: dict[Any, list[int]] = {}
    for place, example in enumerate(examples):
        groups.setdefault(key(example), []).append(place)
    for members in groups.values():
        circle = rng.permutation(members)
        for draw in range(min(draws, len(members) - 1)):
            for place, other in zip(circle, np.roll(circle, -draw - 1), strict=True):
                given[draw][place] = examples[other].true_answer
    return given


def _of_others(
    examples: Sequence[Example], key: Callable[[Example], Any], draws: int
) -> Summary | None:
    results = [
        result
        for given in others_answers(examples, key, draws)
        for result in grade(examples, given).results
        if result is not None
    ]
    return summarise(examples[0].task, results) if results else None


def plain(value: Any) -> Any:
    """A result as JSON holds it: NamedTuples and dataclasses as objects, arrays as lists."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        names: Any = type(value)
        return {name: plain(each) for name, each in zip(names._fields, value, strict=True)}
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
