"""The prompts of GenEval, DPG-Bench and T2I-CompBench, read from the files that their repositories hold.

GenEval        prompts/evaluation_metadata.jsonl: {"tag": …, "include": […], "prompt": …} a line
DPG-Bench      dpg_bench/prompts/*.txt: one prompt a file, whose name the scorer's table of questions has
T2I-CompBench  examples/dataset/*_val.txt: one prompt a line, perhaps with more behind a tab
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME_BYTES = 255  # the longest file name of common file systems
IMAGE_ENDING = "_000000.png"  # of T2I-CompBench's file names, after the prompt


@dataclass(frozen=True)
class OfficialPrompt:
    """One prompt of a benchmark."""

    text: str
    name: str  # what the scorer knows it by: a folder, a file's stem
    metadata: Mapping[str, Any] = field(default_factory=dict)  # the benchmark's own, for its scorer


def read_geneval(path: str | Path) -> list[OfficialPrompt]:
    """The lines of `evaluation_metadata.jsonl`. Raises ValueError of one line for what the scorer could not use."""
    prompts = []
    for number, line in enumerate(_lines(path), 1):
        place = f"{path} line {number}"
        try:
            content = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place}: no JSON ({error})") from None
        if not isinstance(content, dict):
            raise ValueError(f"{place}: want an object with a tag and a prompt")
        for key in ("tag", "prompt"):
            if not isinstance(content.get(key), str) or not content[key].strip():
                raise ValueError(f'{place}: no "{key}"; want GenEval\'s evaluation_metadata.jsonl')
        prompts.append(OfficialPrompt(content["prompt"], f"{number - 1:05d}", content))
    return prompts


def read_dpg(path: str | Path) -> list[OfficialPrompt]:
    """The .txt files of a folder, by name with numbers in their order; ValueError of one line for an empty one."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; want DPG-Bench's dpg_bench/prompts")
    files = sorted(folder.glob("*.txt"), key=lambda file: _by_number(file.stem))
    if not files:
        raise ValueError(f"{folder}: no .txt files; want DPG-Bench's dpg_bench/prompts")
    prompts = []
    for file in files:
        if "." in file.stem:
            raise ValueError(
                f"{file}: a dot within the name; the scorer reads names up to the first dot"
            )
        prompts.append(OfficialPrompt(_text(file, file.read_bytes()), file.stem))
    return prompts


def read_compbench(path: str | Path) -> list[OfficialPrompt]:
    """The lines of one category's `*_val.txt`, up to a tab. Raises ValueError of one line for a prompt that no file
    name can hold: the scorers read prompts from names, up to the first "_".
    """
    prompts = []
    for number, line in enumerate(_lines(path), 1):
        text = line.split("\t")[0]
        place = f"{path} line {number}"
        bad = [sign for sign in ("/", "_", "\0") if sign in text]
        if bad or not text.strip():
            why = f"a prompt with {bad[0]!r}" if bad else "no prompt"
            raise ValueError(f"{place}: {why}; the scorers read prompts from file names")
        if len((text + IMAGE_ENDING).encode()) > NAME_BYTES:
            raise ValueError(
                f"{place}: a prompt of {len(text.encode())} bytes; file names hold {NAME_BYTES}"
            )
        prompts.append(OfficialPrompt(text, text))
    return prompts


def _lines(path: str | Path) -> Sequence[str]:
    """The lines of a UTF-8 file without the empty ones at its end."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such prompt file")
    text = _text(path, path.read_bytes())
    return text.splitlines()


def _text(path: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 ({error.reason} at byte {error.start})") from None
    if not text:
        raise ValueError(f"{path}: is empty; want a prompt")
    return text


def _by_number(name: str) -> list[tuple[bool, int, str]]:
    """A key by which "9" comes before "10", and both before words."""
    parts = re.findall(r"\d+|\D+", name)
    return [(False, int(part), "") if part.isdigit() else (True, 0, part) for part in parts]


READERS: Mapping[str, Callable[[str | Path], list[OfficialPrompt]]] = {
    "geneval": read_geneval,
    "dpg": read_dpg,
    "compbench": read_compbench,
}
