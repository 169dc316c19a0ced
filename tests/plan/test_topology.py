"""Machines by name: what parses, what is refused, and devices of this process."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lumina_jax.plan.topology import Topology

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "slices", "devices", "domains"),
    [
        ("v5e:16x16", 1, 256, 1),
        ("v5e:16x16", 2, 512, 2),
        ("V6e:4x4", 1, 16, 1),
        ("v5p:4x4x4", 1, 64, 1),
        ("v4:2x2x1", 3, 12, 3),
        ("h100:8", 1, 8, 1),
        ("a100:4x8", 1, 32, 4),
        ("cpu:8", 1, 8, 1),
        ("cpu:4", 2, 8, 2),
    ],
)
def test_names(text: str, slices: int, devices: int, domains: int) -> None:
    found = Topology.parse(text, slices)
    assert (found.num_devices, found.num_domains) == (devices, domains)
    assert found.devices_per_slice * found.num_domains == devices
    assert found.name == text.lower() and found.chip.name == text.lower().split(":")[0]


@pytest.mark.parametrize(
    ("text", "slices", "said"),
    [
        ("v5e", 1, "want CHIP:SHAPE"),
        ("v5e:16*16", 1, "want CHIP:SHAPE"),
        ("v5x:4x4", 1, "unknown accelerator 'v5x'"),
        ("v5p:16x16", 1, "v5p has 3 axes, got 2"),
        ("v5e:4x4x4", 1, "v5e has 2 axes, got 3"),
        ("h100:2x4x8", 1, "h100 has 2 axes, got 3"),
        ("v6e:32x32", 1, "at most 256 chips; add --slices"),
        ("v5e:0x4", 1, "at least 1"),
        ("v5e:4x4", 0, "at least 1"),
        ("h100:8", 2, "name GPU nodes first"),
    ],
)
def test_misspelt_ones_are_refused_in_one_line(text: str, slices: int, said: str) -> None:
    with pytest.raises(ValueError) as error:
        Topology.parse(text, slices)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_fake_devices_are_this_process_s() -> None:
    assert Topology.parse("cpu:4").devices() == jax.devices("cpu")[:4]
    with pytest.raises(ValueError, match=r"has \d+ CPU devices, want 4096"):
        Topology.parse("cpu:4096").devices()


def test_a_gpu_without_a_description_is_refused() -> None:
    with pytest.raises(
        ValueError, match="no description of h100-pcie for a compiler; want one of a100, h100, h200"
    ):
        Topology.parse("h100-pcie:1").devices()


def test_a_missing_compiler_is_one_line_that_says_how_to_have_it() -> None:
    """In a Python that finds neither."""
    code = """
import sys
for absent in ("libtpu", "jax_plugins", "jax_cuda12_plugin", "jax_cuda13_plugin"):
    sys.modules[absent] = None
from lumina_jax.plan.topology import Topology
for name in ("v5e:2x2", "h100:1"):
    try:
        Topology.parse(name).devices()
    except ValueError as error:
        print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("TPU_LIBRARY_PATH", None)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.stdout.splitlines() == [
        "topology 'v5e:2x2': its compiler is not installed: pip install -r requirements-tpu.txt",
        "topology 'h100:1': its compiler is not installed: "
        "pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt, of jax's version",
    ], result.stderr[-2000:]
