"""Questions about images, asked of any answering function, with every answer on disk as soon as it is there."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from lumina_jax.image_files import open_image

ANSWERS = "answers.jsonl"  # {"id", "prompt", "answer"} a line


class Answering(Protocol):
    """Answers a batch of questions, each about the images beside it, in one text each."""

    def __call__(
        self, questions: Sequence[str], images: Sequence[Sequence[Image.Image]]
    ) -> Sequence[str]: ...


class Question(NamedTuple):
    """One question of a benchmark."""

    id: str  # no other of the benchmark's has it
    prompt: str  # as the model is asked
    image: Path | Callable[[], Image.Image]  # opened when it is asked


def ask(
    questions: Sequence[Question],
    answering: Answering,
    out: str | Path,
    *,
    batch: int = 8,
    progress: bool = True,
) -> list[str]:
    """The answers in the questions' order. Those that `answers.jsonl` in `out` holds already are not asked again.

    Raises ValueError of one line for two questions of one id, an image that cannot be read, or answers that are not as
    many as the questions; all before stay on disk.
    """
    from tqdm import tqdm

    if len({question.id for question in questions}) != len(questions):
        raise ValueError("two questions of one id: each needs its own")
    if batch < 1:
        raise ValueError(f"{batch} questions at once: want 1 or more")
    log = Path(out) / ANSWERS
    known = read_answers(log)
    found = {q.id: known[q.id, q.prompt] for q in questions if (q.id, q.prompt) in known}
    todo = [question for question in questions if question.id not in found]
    with (
        log.open("ab") as stream,
        tqdm(
            total=len(questions), initial=len(found), unit="question", disable=not progress
        ) as bar,
    ):
        for start in range(0, len(todo), batch):
            asked = todo[start : start + batch]
            images = [[_opened(question)] for question in asked]
            texts = answering([question.prompt for question in asked], images)
            if len(texts) != len(asked):
                raise ValueError(f"{len(texts)} answers to {len(asked)} questions: want one each")
            records = [
                {"id": question.id, "prompt": question.prompt, "answer": str(text)}
                for question, text in zip(asked, texts, strict=True)
            ]
            stream.write(json_lines(records))
            stream.flush()
            found |= {record["id"]: record["answer"] for record in records}
            bar.update(len(asked))
    return [found[question.id] for question in questions]


def read_answers(log: Path) -> dict[tuple[str, str], str]:
    """The answers of a log by (id, prompt), without a last line that a crash tore; the log is mended."""
    if not log.exists():
        return {}
    content = log.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        log.write_bytes(whole)
    return {(r["id"], r["prompt"]): r["answer"] for r in map(json.loads, whole.splitlines())}


def read_json_lines(path: str | Path, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Objects, one a line, each with `keys`; ValueError of one line that names the line that is not so."""
    path, keys = Path(path), tuple(keys)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path} line {number}: no JSON ({error})") from None
        missing = [key for key in keys if not isinstance(record, dict) or key not in record]
        if missing:
            raise ValueError(f"{path} line {number}: no {', '.join(missing)}")
        records.append(record)
    if not records:
        raise ValueError(f"{path}: is empty; want one JSON object a line")
    return records


def json_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Objects as UTF-8, one a line."""
    return "".join(json.dumps(dict(r), ensure_ascii=False) + "\n" for r in records).encode()


def _opened(question: Question) -> Image.Image:
    source = question.image
    return open_image(source) if isinstance(source, Path) else source()
