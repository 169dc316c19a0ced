"""A small checkpoint to tokenise with, and the command as tests run it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lumina_jax import checkpoint as checkpoints
from lumina_jax.checkpoint import digest, load_model, save_model
from lumina_jax.cli import run_main
from lumina_jax.config import ModelConfig
from lumina_jax.data.pretokenize import command
from lumina_jax.data.pretokenize.__main__ import main
from lumina_jax.data.records import EncodeBatch, Record, jitted_encoder, unpack_record
from lumina_jax.data.shards import open_shards
from lumina_jax.paths import is_remote, parse_path


class Outcome(NamedTuple):
    """What the command left."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def records(self) -> list[Record]:
        """The records of its folder, in order."""
        return [unpack_record(packed) for packed in open_shards(self.folder)]

    @property
    def bad(self) -> str:
        """Its list of bad inputs."""
        return (self.folder / "bad.jsonl").read_text()


@pytest.fixture(scope="session")
def checkpoint(small_lumina, tmp_path_factory) -> str:
    """The VQGAN and tokenizer of `small_lumina`: 8 px a code, 16 px a unit, 128 px, 64 codes."""
    path = tmp_path_factory.mktemp("pretokenize") / "model"
    save_model(
        path, {"vqgan": small_lumina.vqgan_params}, small_lumina.config, small_lumina.tokenizer
    )
    return str(path)


# what every run of the command does anew, once for all tests
_load_model, _digest = cache(load_model), cache(digest)
_ENCODERS: dict[ModelConfig, EncodeBatch] = {}


def _encoder(model: ModelConfig, vqgan_params: Any) -> EncodeBatch:
    if model not in _ENCODERS:
        _ENCODERS[model] = jitted_encoder(model, vqgan_params)
    return _ENCODERS[model]


@pytest.fixture
def pretokenize(checkpoint, capsys, tmp_path, monkeypatch) -> Callable[..., Outcome]:
    """`pretokenize(src, "--part", "1/2", dst="a")` runs the command in this process."""
    monkeypatch.setattr(command, "jitted_encoder", _encoder)
    monkeypatch.setattr(checkpoints, "load_model", _load_model)
    monkeypatch.setattr(checkpoints, "digest", _digest)

    def run(src: Path, *options: object, dst: str = "dst") -> Outcome:
        folder, code = tmp_path / dst, 0
        folder = parse_path(dst) if is_remote(dst) else folder
        given = {"--checkpoint": checkpoint} if "--checkpoint" not in options else {}
        pairs = [str(word) for pair in given.items() for word in pair]
        try:
            run_main(lambda: main([str(src), str(folder), *pairs, *map(str, options)]))
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err, folder)

    return run
