"""A folder of painted images with one JSON line each, which a killed run goes on with.

A picture is written whole under its name, then its line is appended: a line tells of a picture that is there.
Every host appends to a file of its own. What a crash leaves half done, a torn line or a file that is still being
written, is removed by the next run, and its picture is drawn again.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_jax.config import SampleConfig
from lumina_jax.config_json import config_to_dict
from lumina_jax.generated_image import GeneratedImage
from lumina_jax.image_files import check_folder, png_bytes
from lumina_jax.paths import as_path, is_remote, names_in, write_bytes

FLUSH_SECONDS = 10.0  # between two writings of the lines in a bucket, where nothing can be appended


def origin(
    prompt: str,
    size: tuple[int, int],
    seed: int,
    settings: SampleConfig,
    checkpoint: str,
    precision: str | None,
) -> dict[str, Any]:
    """What an image depends on, as its line tells it."""
    return {
        "prompt": prompt,
        "size": "{}x{}".format(*size),
        "seed": seed,
        "settings": config_to_dict(settings),
        "checkpoint": checkpoint,
        "precision": precision,
    }


def claim_folder(folder: str | Path, resume: bool) -> Path:
    """A folder that images can be written to; ValueError of one line where it holds something and `resume` is False."""
    folder = as_path(folder)
    check_folder(folder)
    if not resume and names_in(folder):
        raise ValueError(
            f"{folder}: is not empty; name a new folder, or go on with what is there by --resume"
        )
    return folder


class ImageFolder:
    """The images of one host, and the file that tells of them."""

    def __init__(
        self,
        folder: Path,
        wanted: Mapping[str, Mapping[str, Any]],
        process: int = 0,
        num_processes: int = 1,
    ):
        """`wanted`: `origin` of every image that this host is asked for, by file name."""
        self._folder = folder
        share = "" if num_processes == 1 else f"-{process:05d}-of-{num_processes:05d}"
        self.log = folder / f"images{share}.jsonl"
        there = names_in(folder)
        _remove_unfinished(folder, there, {*wanted, self.log.name})
        records = [record for name in _logs(there) for record in read_lines(folder / name)]
        self.finished = {
            record["file"]
            for record in records
            if record["file"] in wanted
            and record["file"] in there
            and all(record.get(key) == value for key, value in wanted[record["file"]].items())
            and self._is_whole(record)
        }
        drawn_anew = {*wanted} - self.finished
        old = self.log.read_bytes() if self.log.name in there else b""
        kept = [record for record in read_lines(self.log, old) if record["file"] not in drawn_anew]
        self._content = b"".join(map(_encoded, kept))
        if self._content != old:
            write_bytes(self.log, self._content)
        self._flushed = time.monotonic()

    def add(self, name: str, image: GeneratedImage, notes: Mapping[str, Any]) -> None:
        """Write a picture, then its line: what it depends on, and `notes`. OSError: nothing is half written."""
        content = png_bytes(image.image, image.metadata)
        write_bytes(self._folder / name, content)
        size, settings = image.size, image.settings
        record = {
            "file": name,
            **origin(image.prompt, size, image.seed, settings, image.checkpoint, image.precision),
            "sha256": hashlib.sha256(content).hexdigest(),
            **notes,
        }
        self._append(_encoded(record))
        self.finished.add(name)

    def flush(self) -> None:
        """See that the lines of a bucket are there; those of a disk are."""
        if is_remote(self.log) and self._content:
            write_bytes(self.log, self._content)
            self._flushed = time.monotonic()

    def _append(self, line: bytes) -> None:
        if is_remote(self.log):
            self._content += line
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self.flush()
            return
        length = self.log.stat().st_size if self.log.exists() else 0
        try:
            with self.log.open("ab") as stream:
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            if self.log.exists():
                os.truncate(self.log, length)
            raise

    def _is_whole(self, record: Mapping[str, Any]) -> bool:
        """Whether a picture is what its line tells. In a bucket an object is whole once it is there."""
        path = self._folder / record["file"]
        if is_remote(path):
            return True
        return hashlib.sha256(path.read_bytes()).hexdigest() == record.get("sha256")


def read_lines(log: Path, content: bytes | None = None) -> list[dict[str, Any]]:
    """The records of a file of lines, without those that cannot be read, such as a last one that a crash tore."""
    records = []
    for line in (log.read_bytes() if content is None else content).split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("file"), str):
            records.append(record)
    return records


def _encoded(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


def _logs(names: set[str]) -> list[str]:
    """The files of lines of all hosts, of this run and of those before it."""
    return sorted(name for name in names if re.fullmatch(r"images(-\d+-of-\d+)?\.jsonl", name))


def _remove_unfinished(folder: Path, there: set[str], names: set[str]) -> None:
    """Remove what `paths.write_bytes` was writing under one of these names when its process was killed."""
    for name in there:
        whole, writing, _ = name.partition(".writing-")
        if writing and whole in names:
            (folder / name).unlink(missing_ok=True)
