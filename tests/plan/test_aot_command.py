"""The plan command as a process, with the TPU's compiler and without it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def plan(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess:
    """`python -m lumina_jax.plan`, or `code` in its place."""
    given = ["-m", "lumina_jax.plan"] if code is None else ["-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    environment.pop("TPU_LIBRARY_PATH", None)
    return subprocess.run(
        [sys.executable, *given, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.aot
def test_tiny_run_is_compiled_for_four_tpus(run_file: str, tmp_path: Path):
    """Its inputs are what its shapes say, its layers a loop forward and one back, and what they send is bounded."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install -r requirements-tpu.txt")
    numbers = tmp_path / "plan.json"
    done = plan(run_file, "--topology", "v5e:2x2", "--stage", "0", "--json", str(numbers))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fits: peak" in done.stdout and "projection: " in done.stdout
    (stage,) = json.loads(numbers.read_text())["stages"]
    told, parts = stage["compiled"]["arguments"], sum(stage["argued"]["parts"].values())
    assert parts <= told < 1.2 * parts  # small arrays take whole tiles
    assert stage["fits"] is True and stage["loop"]["num_loops"] == 2
    assert 0.99 * stage["least"] < stage["loop"]["bytes"] < 1.02 * stage["least"]  # measured 1.00


@pytest.mark.slow
def test_without_the_compiler_one_line_says_how_to_have_it(run_file: str):
    code = "import sys; sys.modules['libtpu'] = None; import runpy; "
    code += "runpy.run_module('lumina_jax.plan', run_name='__main__', alter_sys=True)"
    done = plan(run_file, "--topology", "v5e:2x2", code=code)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "pip install -r requirements-tpu.txt" in errors[0]
