"""Files of prompts: one JSON object a line, all of them checked before anything is drawn.

    {"prompt": "a red dome", "size": "128x96", "seed": 1, "guidance": 3.0, "id": "dome"}

Only the prompt is wanted; what a line leaves out comes from the command line, then from the model.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina_jax.config import SampleConfig
from lumina_jax.dims import pick
from lumina_jax.image_files import picture_name
from lumina_jax.painting import override
from lumina_jax.paths import as_path
from lumina_jax.unirep.grid import parse_size

SETTINGS = {  # keys of a line, and what they are called in a SampleConfig
    "guidance": "guidance",
    "image_guidance": "image_guidance",
    "temperature": "temperature",
    "top_k": "image_top_k",
    "top_p": "image_top_p",
    "min_p": "image_min_p",
}
DIGITS = 5  # of the number that a picture's name begins with


@dataclass(frozen=True)
class PromptLine:
    """One image that is asked for."""

    number: int  # of the line in its file, from 1
    index: int  # among the file's prompts, from 0
    prompt: str
    size: tuple[int, int] | None  # (width, height) px; None: the trained square
    seed: int
    given: Mapping[str, Any]  # fields of SampleConfig
    file: str  # name of its picture

    def settings(self, base: SampleConfig) -> SampleConfig:
        """`base` with what the line gives; ValueError of one line for a value that cannot be."""
        return override(base, self.given)


def read_prompts(path: str | Path, defaults: Mapping[str, Any] | None = None) -> list[PromptLine]:
    """The lines of a prompt file. `defaults`: values for keys that a line leaves out.

    Raises FileNotFoundError, or ValueError of one line with the file, the line's number and what is wrong with it.
    """
    path, defaults = as_path(path), defaults or {}
    _check_values(defaults)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such prompt file")
    numbered = [
        (number, text.strip())
        for number, text in enumerate(
            path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1
        )
    ]
    filled = [(number, text) for number, text in numbered if text]
    if not filled:
        raise ValueError(f"{path}: no prompts; want one JSON object a line")
    lines: list[PromptLine] = []
    for index, (number, text) in enumerate(filled):
        with_place(
            path, number, lambda i=index, n=number, t=text: lines.append(_line(n, i, t, defaults))
        )
    _check_names(path, lines)
    return lines


def with_place(path: Path, number: int, action: Callable[[], Any]) -> Any:
    """What `action` returns; a ValueError with the file and the line in front."""
    try:
        return action()
    except ValueError as error:
        raise ValueError(f"{path} line {number}: {error}") from None


def share_of(lines: Sequence[PromptLine], process: int, num_processes: int) -> list[PromptLine]:
    """The lines that one of several hosts draws: every `num_processes`-th."""
    return [line for line in lines if line.index % num_processes == process]


def _line(number: int, index: int, text: bytes, defaults: Mapping[str, Any]) -> PromptLine:
    values = _object(text)
    _check_values(values)
    if "prompt" not in values:
        raise ValueError('no "prompt"')
    merged = {**defaults, **values}
    given = {name: merged[key] for key, name in SETTINGS.items() if key in merged}
    SampleConfig(**given)  # one line where a value cannot be
    name = merged.get("id")
    return PromptLine(
        number,
        index,
        merged["prompt"],
        None if "size" not in merged else _size(merged["size"]),
        merged.get("seed", 0),
        given,
        picture_name(index, merged["prompt"], DIGITS) if name is None else f"{name}.png",
    )


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object of a line."""
    try:
        content = json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at character {error.colno})") from None
    except (ValueError, RecursionError):
        raise ValueError("no JSON that can be read; numbers or brackets without end") from None
    if not isinstance(content, dict):
        raise ValueError(
            'want an object such as {"prompt": "a red dome"}, got ' + str(content)[:40]
        )
    return content


def _check_values(values: Mapping[str, Any]) -> None:
    """Raise ValueError of one line for a key that no line has, or a value of another kind."""
    for key, value in values.items():
        kind, wanted = pick(KEYS, key, "key")
        if not kind(value):
            raise ValueError(f"{key} {json.dumps(value)[:60]}: want {wanted}")
    if "size" in values:
        _size(values["size"])


def _size(value: str | Sequence[int]) -> tuple[int, int]:
    return parse_size(value) if isinstance(value, str) else (value[0], value[1])


def _check_names(path: Path, lines: Sequence[PromptLine]) -> None:
    """Raise ValueError of one line where two lines would write the same file, on any file system."""
    seen: dict[str, PromptLine] = {}
    for line in lines:
        first = seen.setdefault(line.file.casefold(), line)
        if first is not line:
            raise ValueError(
                f"{path} line {line.number}: its picture {line.file} is line {first.number}'s too; give it another id"
            )


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value.strip()) and bool(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair: no text
        return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _is_size(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_whole, value))
    return isinstance(value, str) or pair


def _is_name(value: Any) -> bool:
    return (_is_whole(value) and len(str(value)) <= 100) or (
        isinstance(value, str)
        and re.fullmatch(r"\w[\w.-]*", value) is not None
        and len(value.encode()) <= 100
    )


NUMBER = _is_number, "a number"
WHOLE = _is_whole, "a whole number"
KEYS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "prompt": (_is_text, "what to paint, in words"),
    "size": (_is_size, '"WIDTHxHEIGHT" or [width, height] in pixels'),
    "seed": WHOLE,
    "guidance": NUMBER,
    "image_guidance": NUMBER,
    "temperature": NUMBER,
    "top_k": WHOLE,
    "top_p": NUMBER,
    "min_p": NUMBER,
    "id": (_is_name, "up to 100 letters, digits, '.', '-' or '_', a letter or digit first"),
}
