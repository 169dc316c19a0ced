"""Checkpoints restore straight into shards: the same numbers on any mesh, and every process reads its share alone."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from lumina_jax.checkpoint import load_model
from lumina_jax.config import ModelConfig, TransformerConfig, VQGANConfig
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.model_writer import ModelWriter
from lumina_jax.orbax_io import leaf_names
from lumina_jax.sharding import Layout, param_shardings

ROOT = Path(__file__).resolve().parents[1]
VQGAN = VQGANConfig(8, (1,), 1, 4, 4, 16, num_groups=4, stem_px=16)
SMALL = TransformerConfig(2, 64, 8, 8, 8, 128, 256, param_dtype="bfloat16")
WIDE = TransformerConfig(
    2, 1024, 8, 8, 128, 2816, 8192, param_dtype="bfloat16"
)  # arrays of many chunks
MAX_CHUNK_BYTES = 64 * 2**20
SCRIPT = """
import json, sys
import jax
path, address, index = sys.argv[1:]
jax.distributed.initialize(address, 4, int(index))
from tests.test_restore import WIDE, layout_of, shardings_of
from lumina_jax.checkpoint import load_model

def bytes_read():
    return int(next(l for l in open("/proc/self/io") if l.startswith("rchar")).split()[1])

shardings = shardings_of(WIDE, layout_of(jax.devices(), "fsdp"))
before = bytes_read()
params = load_model(path, parts=("transformer",), shardings={"transformer": shardings}).params
read = bytes_read() - before
mine = sum(s.data.nbytes for x in jax.tree.leaves(params) for s in x.addressable_shards)
print(json.dumps({"read": read, "mine": mine}))
"""


def layout_of(devices: list, *axes: str) -> Layout:
    """All devices on one axis, or on two."""
    shape = (len(devices),) if len(axes) == 1 else (len(devices) // 2, 2)
    return Layout(Mesh(np.array(devices).reshape(shape), axes), "_".join(axes))


def shardings_of(config: TransformerConfig, layout: Layout):
    """Where each weight of `config` goes."""
    return param_shardings(abstract_params(config), param_letters(config), layout)


def write(path: Path, config: TransformerConfig) -> dict[str, np.ndarray]:
    """Random weights by the streaming writer; returns them by name."""
    rng = np.random.default_rng(0)
    leaves = {}
    abstract = abstract_params(config)
    for name, leaf in zip(leaf_names(abstract), jax.tree.leaves(abstract), strict=True):
        leaves[f"transformer/{name}"] = rng.normal(0, 0.02, leaf.shape).astype(leaf.dtype)
    writer = ModelWriter(path, {})
    for name, array in leaves.items():
        writer.write({name: array})
    writer.finish(ModelConfig(config, VQGAN))
    return leaves


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("small") / "model"
    return path, write(path, SMALL)


@pytest.mark.parametrize(
    ("num_devices", "axes"),
    [(1, ("fsdp",)), (4, ("fsdp",)), (8, ("tensor",)), (8, ("fsdp", "tensor"))],
    ids=str,
)
def test_restored_shards_hold_the_same_numbers(small, num_devices, axes):
    path, leaves = small
    shardings = shardings_of(SMALL, layout_of(jax.devices()[:num_devices], *axes))
    loaded = load_model(path, parts=("transformer",), shardings={"transformer": shardings})
    params = loaded.params["transformer"]
    for name, array, place in zip(
        leaf_names(params), jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True
    ):
        assert array.sharding == place
        np.testing.assert_array_equal(array, leaves[f"transformer/{name}"])


@pytest.mark.multihost
def test_each_of_four_processes_reads_its_share_alone(tmp_path: Path):
    """At most 1.3 times a quarter of the bytes, metadata included; chunks of at most 64 MiB."""
    path = tmp_path / "model"
    leaves = write(path, WIDE)
    stored = jax.tree.leaves(ocp.metadata(path / "params").metadata)
    for found in stored:
        chunk = found.storage_metadata.chunk_shape
        assert np.prod(chunk) * np.dtype(found.dtype).itemsize <= MAX_CHUNK_BYTES
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(path), address, str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(4)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    total = sum(array.nbytes for array in leaves.values())
    for text in said:
        found = json.loads(text.splitlines()[-1])
        print(found, total)
        assert found["mine"] == pytest.approx(total / 4, rel=0.01)
        assert 0.6 * total / 4 <= found["read"] <= 1.3 * total / 4
