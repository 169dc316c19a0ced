"""Optional libraries of the benchmarks, imported when one is asked for, and which versions of them made a score."""

import hashlib
import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

REQUIREMENTS = "requirements-evals.txt"
CHUNK_BYTES = 1 << 20


def extra(module: str) -> Any:
    """An optional module, such as "torch"; ValueError of one line that says how to install it where it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = error.name or module
        raise ValueError(
            f"{name} is not there, and this score wants it: pip install -r {REQUIREMENTS}"
        ) from error


def versions(*distributions: str) -> dict[str, str | None]:
    """The installed versions of libraries; None for one that is absent."""
    found: dict[str, str | None] = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def file_digest(path: str | Path) -> str:
    """The SHA-256 of a file, or of the names and contents of a folder's files, as hex digits."""
    path, found = Path(path), hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if file != path:
            found.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                found.update(chunk)
    return found.hexdigest()
