"""The original's pre-tokenised records as a source: {"token", "label", "id"} in pickles, of which nothing is run.

A list of {"file", "len", "id"} names them: one JSON list, or RANK-of-SPLITS-record.jsonl files beside files/.
"""

import re
from pathlib import Path

import numpy as np

from lumina_jax.data.pretokenize.examples import (
    BadInput,
    Example,
    FileRange,
    Source,
    path_inside,
)
from lumina_jax.data.pretokenize.json_source import join_records, open_records
from lumina_jax.data.pretokenize.options import SourceOptions
from lumina_jax.pickle_tree import read_pickle

PARTS = "*-record.jsonl"


def open_pickles(path: Path, options: SourceOptions) -> Source:
    """The pickles that a list names, or those of a folder: its one JSON list, else its parts' lists in order."""
    root = options.root or (path if path.is_dir() else path.parent)
    records = join_records([open_records(file) for file in record_lists(path)])

    def read(index: int) -> Example:
        record, where = records.read(index)
        name = record.get("file")
        if not isinstance(name, str) or not name:
            raise BadInput(where, f'"file": got {str(name)[:60]!r}, want the path of a pickle')
        beside = "files/" + re.split(r"[/\\]", name)[-1]  # however the writer called the folder
        inside = beside if (root / beside).is_file() else name
        file = path_inside(root, inside, where, options.follow_links)
        return Example(where, id=str(record.get("id", "")), ids=FileRange(file, name=name))

    return Source("pickles", records.count, read, records.digest)


def record_lists(path: Path) -> list[Path]:
    """The files that list the pickles of a folder, or the one that is given."""
    if path.is_file():
        return [path]
    lists = sorted(path.glob("*.json"))
    parts = sorted(path.glob(PARTS), key=lambda file: (len(file.name), file.name))
    if len(lists) > 1 or not (lists or parts):
        raise ValueError(f"{path}: {len(lists)} JSON lists, {len(parts)} {PARTS}; name the list")
    if not lists:
        _check_parts(path, [file.name for file in parts])
    return lists or parts


def _check_parts(path: Path, names: list[str]) -> None:
    """ValueError unless they are all parts of one whole."""
    found = [re.fullmatch(r"(\d+)-of-(\d+)-record\.jsonl", name) for name in names]
    counts = {int(match[2]) for match in found if match}
    if None in found or len(counts) > 1:
        raise ValueError(f"{path}: {', '.join(names[:5])}: no parts of one whole; name one list")
    ranks = {int(match[1]) for match in found if match}
    missing = sorted({*range(min(counts))} - ranks)
    if missing:
        raise ValueError(
            f"{path}: {len(ranks)} of {min(counts)} parts, without {missing[0]}-of-{min(counts)}-record.jsonl; "
            "copy all, or name one list"
        )


def read_ids(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(ids, labels), int32[S] each, of one pickle; ValueError where they are no ids with their labels."""
    tree = read_pickle(content)
    if not isinstance(tree, dict):
        raise ValueError(f"a pickled {type(tree).__name__}, want a dictionary")
    arrays = []
    for key in ("token", "label"):
        values = tree.get(key)
        if not isinstance(values, list) or not values or {*map(type, values)} != {int}:
            raise ValueError(f'"{key}" is no list of whole numbers')
        if not -100 <= min(values) <= max(values) < 2**16:
            raise ValueError(f'"{key}" from {min(values)} to {max(values)}, want ids below 65536')
        arrays.append(np.array(values, np.int32))
    ids, labels = arrays
    if len(ids) != len(labels) or ids.min() < 0:
        raise ValueError(f"{len(labels)} labels for {len(ids)} ids, or an id below 0")
    labels = np.where(labels > 0, labels, np.int32(-100))  # as the original's trainer reads them
    wrong = np.flatnonzero((labels != -100) & (labels != ids))
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(f"label {labels[at]} of id {ids[at]} at {at}: want the id itself or -100")
    return ids, labels
