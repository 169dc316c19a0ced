"""Runs the conversion command in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lumina_jax.convert.__main__ import main


@pytest.fixture
def convert(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """`convert(source, destination, "--to", "lumina")`: what the command prints; its errors are raised."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="session")
def release(load_golden, unpack_release) -> Callable[[str], Path]:
    """`release("meta")`: the golden 34B in a layout, where one model is as good as two."""
    return lambda layout: unpack_release(load_golden("tiny_34b"), layout)


@pytest.fixture(scope="session")
def tiny_34b_checkpoint(release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden 34B converted from Meta's four shards, computing in bfloat16."""
    path = tmp_path_factory.mktemp("tiny_34b") / "checkpoint"
    main([str(release("meta")), str(path)])
    return path
