"""Which kind of source a path is, and how each kind is opened."""

from collections.abc import Callable
from pathlib import Path

from lumina_jax.data.pretokenize.examples import BadInput, Source
from lumina_jax.data.pretokenize.folder_source import open_folder, open_table
from lumina_jax.data.pretokenize.json_source import open_json, open_records
from lumina_jax.data.pretokenize.options import SourceOptions
from lumina_jax.data.pretokenize.pickle_source import PARTS, open_pickles
from lumina_jax.data.pretokenize.tar_source import open_tars
from lumina_jax.data.pretokenize.tfds_source import open_tfds
from lumina_jax.dims import pick
from lumina_jax.paths import is_remote

TABLES = (".csv", ".jsonl", ".json")

KINDS: dict[str, Callable[[Path, SourceOptions], Source]] = {
    "json": open_json,
    "table": open_table,
    "folder": open_folder,
    "tfds": open_tfds,
    "webdataset": open_tars,
    "pickles": open_pickles,
}


def open_source(path: Path, options: SourceOptions) -> Source:
    """The examples of a path, of the kind that is given or found; ValueError or OSError of one line."""
    if is_remote(path):
        raise ValueError(f"{path}: sources are local; mount the bucket, or copy it")
    kind, path = find_kind(path, options)
    source = pick(KINDS, kind, "kind of source")(path, options)
    if not source.count:
        raise ValueError(f"{path}: holds no examples")
    return source


def find_kind(path: Path, options: SourceOptions) -> tuple[str, Path]:
    """(row of KINDS, what to open): a folder that holds one table of its images is that table."""
    if options.kind:
        return options.kind, path
    if path.is_file():
        return _kind_of_file(path), path
    if not path.is_dir():
        if options.tfds_dir is not None or len(path.parts) <= 2 and not path.suffix:
            return "tfds", path
        raise FileNotFoundError(f"{path}: no such file or folder")
    if (path / "dataset_info.json").exists():
        return "tfds", path
    if any(path.glob("*.tar")):
        return "webdataset", path
    if any(path.glob(PARTS)) or (path / "files").is_dir() and any(path.glob("*.json")):
        return "pickles", path
    tables = [file for file in sorted(path.iterdir()) if file.suffix.lower() in TABLES]
    if len(tables) > 1:
        names = ", ".join(file.name for file in tables[:5])
        raise ValueError(f"{path}: holds {names}; name one of them, or give --kind folder")
    return (_kind_of_file(tables[0]), tables[0]) if tables else ("folder", path)


def _kind_of_file(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return "webdataset"
    if suffix == ".csv":
        return "table"
    if suffix not in TABLES:
        raise ValueError(
            f"{path}: want .json, .jsonl, .csv, .tar or a folder; --kind says what it is"
        )
    records = open_records(path)
    try:
        first = records.read(0)[0] if records.count else {}
    except BadInput:
        first = {}
    return "pickles" if {"file", "len"} <= first.keys() else "json"
