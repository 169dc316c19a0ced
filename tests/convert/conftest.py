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
def tiny_34b_checkpoint(load_golden, golden_tokenizer_path, tmp_path_factory) -> Path:
    """The golden 34B converted from Meta's four shards, computing in bfloat16."""
    import gzip

    golden = load_golden("tiny_34b")
    root = tmp_path_factory.mktemp("tiny_34b")
    for name in ("meta", "tokenizer"):
        (root / name).mkdir()
        for source in (golden.path / name).iterdir():
            content = source.read_bytes()
            content = gzip.decompress(content) if source.suffix == ".gz" else content
            (root / name / source.name.removesuffix(".gz")).write_bytes(content)
    (root / "tokenizer" / "text_tokenizer.json").symlink_to(golden_tokenizer_path)
    main([str(root / "meta"), str(root / "checkpoint")])
    return root / "checkpoint"
