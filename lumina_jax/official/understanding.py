"""POPE, MME and MMBench from their public files to scores: what is asked, how it is answered, what is written.

OUT/answers.jsonl   every answer as it was given, resumable
OUT/run.json        what made them: data, prompt, checkpoint, settings
OUT/scores.json     the scores by the official rules; none where the data tell no answers
OUT/official/       the answers as the official evaluators read them
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.checkpoint import write_json
from lumina_jax.official import mmbench, mme, pope
from lumina_jax.official.answers import Answering, Question, ask, json_lines
from lumina_jax.official.extras import extra, file_digest
from lumina_jax.official.runs import begin_run
from lumina_jax.official.tables import write_table
from lumina_jax.paths import write_bytes


class Benchmark(NamedTuple):
    """A benchmark's data, opened."""

    prompt: str  # the template that its questions were put in
    questions: Sequence[Question]
    scores: Callable[
        [Sequence[str]], dict[str, Any]
    ]  # of the answers; {} where the data tell no truth
    write: Callable[[Path, Sequence[str]], object]  # the official files into a folder


def open_pope(data: Path, images: Path) -> Benchmark:
    """POPE's questions of one setting, and the folder of COCO's val2014 images."""
    items = pope.read_pope(data)

    def write(folder: Path, answers: Sequence[str]) -> None:
        write_bytes(folder / f"{data.stem}.json", json_lines(pope.answer_lines(items, answers)))

    return Benchmark(
        pope.PROMPT, pope.questions(items, images), lambda found: pope.scores(items, found), write
    )


def open_mme(data: Path) -> Benchmark:
    """MME's release folder, or its TSV."""
    items = mme.read_mme(data)

    def write(folder: Path, answers: Sequence[str]) -> None:
        for name, text in mme.answer_files(items, answers).items():
            write_bytes(folder / f"{name}.txt", text.encode())

    return Benchmark(
        mme.PROMPT, mme.questions(items), lambda found: mme.scores(items, found), write
    )


def open_mmbench(data: Path, circular: bool = False, table: str = "tsv") -> Benchmark:
    """MMBench's TSV. `circular`: also ask the rolls, where the table holds none. `table`: "tsv" or "xlsx"."""
    if table == "xlsx":
        extra("openpyxl")  # before anything is asked
    rows = mmbench.read_mmbench(data, circular)

    def write(folder: Path, answers: Sequence[str]) -> None:
        write_table(folder / f"{data.stem}.{table}", mmbench.answer_rows(rows, answers))

    questions = mmbench.questions(data, rows)
    return Benchmark(mmbench.PROMPT, questions, lambda found: mmbench.scores(rows, found), write)


def run_benchmark(
    benchmark: Benchmark,
    data: str | Path,
    answering: Answering,
    out: str | Path,
    *,
    made_by: Mapping[str, Any],
    resume: bool = False,
    batch: int = 8,
    progress: bool = True,
) -> dict[str, Any]:
    """Ask every question, write the official files and `scores.json`; returns the scores.

    made_by: what decides the answers (checkpoint, settings), noted beside them: another cannot go on with a folder.
    """
    notes = {
        "data": {"name": Path(data).name, "sha256": file_digest(data)},
        "questions": len(benchmark.questions),
        "prompt": benchmark.prompt,
        **made_by,
    }
    out = begin_run(out, notes, resume)
    answers = ask(benchmark.questions, answering, out, batch=batch, progress=progress)
    folder = out / "official"
    folder.mkdir(exist_ok=True)
    benchmark.write(folder, answers)
    found = benchmark.scores(answers)
    write_json(out / "scores.json", {**found, **notes})
    return found
