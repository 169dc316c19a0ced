"""Compiling for TPUs ahead of time: a tiny model passes the checks, and a broken one fails them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ahead_of_time import found_by

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "TransformerConfig(2, 1024, 16, 8, 128, 2048, 16384, qk_norm_shards=4)"
SCRIPT = f"""
import json
from functools import partial
import jax
import numpy as np
from jax.sharding import Mesh
from lumina_jax.plan import decoder
from benchmarks._targets import Target, devices
from lumina_jax.chips import chip_named
from lumina_jax.config import TransformerConfig
from lumina_jax.sharding import Layout

def check(num_chips, topology, *programs):
    chips = devices(Target("7b", topology, num_chips))
    layout = Layout(Mesh(np.array(chips), ("tensor",)), "tensor")
    setup = decoder.build({CONFIG}, layout, 512)
    found = {{}}
    for name in programs:
        case = decoder.PROGRAMS[name]
        measured = decoder.measure(case, setup)
        found[name] = decoder.problems(case, setup, measured, chip_named("v6e").memory_bytes)
        tiny = decoder.problems(case, setup, measured, 2 * 2**20)
    return [found, tiny]

whole = check(8, "v6e:2x4", "prefill", "draw_run")
names = ("program",)
decoder.draw_run = jax.jit(decoder.draw_run.__wrapped__, static_argnames=names)
print(json.dumps([*whole, check(1, "v6e:1x1", "draw_run")[0]]))
"""


@pytest.mark.aot
def test_tiny_model_passes_and_broken_ones_fail() -> None:
    """Eight chips pass; a chip of 2 MiB is too small; a cache that is not donated is copied."""
    whole, tiny, copied = found_by(SCRIPT)
    assert whole == {"prefill": [], "draw_run": []}
    assert any(line.startswith("peak memory") for line in tiny)
    assert any(line.startswith("cache copied: 0.000 GiB") for line in copied["draw_run"])


@pytest.mark.aot
def test_target_without_its_compiler_is_skipped_in_one_line() -> None:
    """In a Python that does not find libtpu."""
    code = "import sys; sys.modules['libtpu'] = None; from benchmarks import aot_decode; "
    code += "aot_decode.main(['--targets', '7b v6e-1'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    environment.pop("TPU_LIBRARY_PATH", None)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    said = [line for line in result.stderr.splitlines() if line.startswith("skipped 7b v6e-1: ")]
    assert len(said) == 1
