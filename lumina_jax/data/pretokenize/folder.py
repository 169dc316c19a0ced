"""The folder of records while it is filled: what it is of, what every shard holds, and its completion.

A shard is a pure function of its range of the source and of the settings. Its sidecar is written before it, so that a
shard that is there has one. `settings.json` is written first, `index.json` last.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.data.pretokenize.dataset_info import write_dataset_info
from lumina_jax.data.shards import (
    finish,
    is_complete,
    replace_file,
    shard_name,
    write_shard,
)
from lumina_jax.paths import make_folder

SETTINGS = "settings.json"
BAD = "bad.jsonl"
SIDECARS = "*-of-{:05d}.json"  # of the shards
FORMAT = 1  # of the folder; another one starts anew


class Bad(NamedTuple):
    """An input that gave no record, or not all of its records."""

    file: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.reason}"


class Shard(NamedTuple):
    """What one shard holds."""

    lengths: list[int]  # tokens of every record
    bad: list[Bad]
    num_bytes: int  # of the packed records


def begin(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder and write its settings; ValueError of one line where it has others, or other things in it."""
    make_folder(folder)
    file, wanted = folder / SETTINGS, json.loads(json.dumps({"format": FORMAT, **settings}))
    strange = [path.name for path in folder.iterdir() if not path.name.endswith(".writing")]
    # asked after the look at the rest: another process writes it before anything else
    if not file.exists():
        if strange:
            raise ValueError(
                f"{folder}: holds {sorted(strange)[0]} and no {SETTINGS}; choose an empty folder"
            )
        replace_file(file, (json.dumps(wanted, indent=1) + "\n").encode())
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: no JSON ({error}); choose another folder") from error
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{folder}: was begun with {name} {found.get(name)}, now it is {wanted.get(name)}; "
                "take the same source and settings, or another folder"
            )


def keep_shard(folder: Path, name: str, packed: Sequence[bytes], shard: Shard) -> None:
    """Write a shard with its sidecar."""
    content = {"bad": [list(one) for one in shard.bad], "lengths": shard.lengths}
    content["num_bytes"] = shard.num_bytes
    replace_file(_sidecar(folder, name), (json.dumps(content) + "\n").encode())
    write_shard(folder / name, packed)


def read_shard(folder: Path, name: str) -> Shard:
    """The sidecar of a shard that is there; OSError or ValueError of one line without."""
    file = _sidecar(folder, name)
    try:
        found = json.loads(file.read_text())
        return Shard(found["lengths"], [Bad(*one) for one in found["bad"]], found["num_bytes"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: damaged ({error!r}); remove {name} and start the command again"
        ) from error


def read_shards(folder: Path, num_shards: int, shards: Iterable[int] | None = None) -> list[Shard]:
    """What some shards of a folder hold; all of them unless told."""
    chosen = range(num_shards) if shards is None else shards
    return [read_shard(folder, shard_name(shard, num_shards)) for shard in chosen]


def complete(folder: Path, num_shards: int, settings: dict[str, Any]) -> list[Shard]:
    """Finish a folder all of whose shards are there; done again, or by several at once, it is the same.

    Raises ValueError where no shard has a record: what is bad is then in bad.jsonl all the same.
    """
    shards = read_shards(folder, num_shards)
    if is_complete(folder):
        return shards
    lines = [json.dumps(one._asdict()) + "\n" for shard in shards for one in shard.bad]
    replace_file(folder / BAD, "".join(lines).encode())
    lengths = [length for shard in shards for length in shard.lengths]
    if not lengths:
        raise ValueError(f"{folder}: no input gave a record; {BAD} says why")
    notes = {"num_tokens": sum(lengths), "num_bad": len(lines), **settings}
    write_dataset_info(
        folder,
        settings["name"],
        [len(shard.lengths) for shard in shards],
        sum(shard.num_bytes for shard in shards),
        f"{len(lengths)} conversations as tokens, of {settings['name']}",
        notes,
    )
    finish(folder, len(lengths), notes, lengths)
    return shards


def _sidecar(folder: Path, name: str) -> Path:
    return (folder / name).with_suffix(".json")
