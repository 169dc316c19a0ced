"""Which rows of a batch a process loads, and the arrays that are made of them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lumina_jax.data.stepwise import Rows
from lumina_jax.experiment import MeshConfig
from lumina_jax.sharding import make_mesh
from lumina_jax.train.placing import place_batch, process_rows

ROOT = Path(__file__).resolve().parents[2]
SPECS = {  # partition of [B, S] on a mesh data=4, model=2 -> blocks that B is cut into
    "batch axes": (PartitionSpec("data"), 4),
    "both axes": (PartitionSpec(("data", "model")), 8),
    "nothing": (PartitionSpec(None), 1),
    "columns": (PartitionSpec(None, "model"), 1),
    "rows and columns": (PartitionSpec("data", "model"), 4),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_single_process_loads_all_rows_and_places_them(name: str) -> None:
    spec, count = SPECS[name]
    sharding = NamedSharding(make_mesh(MeshConfig.parse("data=4,model=2")), spec)
    rows = process_rows(sharding)
    assert rows == Rows(tuple(range(count)), count)
    assert rows.of(16) == list(range(16))
    batch = {"tokens": np.arange(96).reshape(16, 6), "lengths": np.arange(48).reshape(16, 3, 1) * 2}
    if len(spec) > 1:
        del batch["lengths"]  # three columns cannot be split
    placed = place_batch(batch, sharding, rows)
    for key, array in batch.items():
        np.testing.assert_array_equal(placed[key], array)
        assert placed[key].sharding == sharding


def test_rows_of_several_blocks() -> None:
    assert Rows((0, 3), 4).of(8) == [0, 1, 6, 7]


def test_a_process_without_devices_of_the_mesh_loads_nothing() -> None:
    sharding = NamedSharding(make_mesh(MeshConfig.parse("data=8")), PartitionSpec("data"))
    assert process_rows(sharding, jax.process_index() + 1) == Rows((), 8)


CLUSTER = """
import sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from lumina_jax.experiment import MeshConfig
from lumina_jax.sharding import make_mesh
from lumina_jax.train.placing import place_batch, process_rows

jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
whole = np.arange(96).reshape(8, 12)
for mesh, spec in [
    ("data=4", ("data",)), ("tensor=4", (None,)), ("data=2,tensor=2", ("data",)), ("tensor=2,data=2", ("data",)),
    ("sequence=4", (None, "sequence")), ("data=2,sequence=2", ("data", "sequence")),
]:
    sharding = NamedSharding(make_mesh(MeshConfig.parse(mesh)), PartitionSpec(*spec))
    rows = process_rows(sharding)
    placed = place_batch({"tokens": whole[rows.of(8)]}, sharding, rows)["tokens"]
    assert placed.shape == whole.shape and placed.sharding == sharding
    for shard in placed.addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])
    print(*rows.blocks, "of", rows.count, end="; ")
"""
BLOCKS = {  # processes -> of each, the blocks under every mesh above
    2: [
        "0 1 of 4; 0 of 1; 0 of 2; 0 1 of 2; 0 of 1; 0 of 2; ",
        "2 3 of 4; 0 of 1; 1 of 2; 0 1 of 2; 0 of 1; 1 of 2; ",
    ],
    4: [
        "0 of 4; 0 of 1; 0 of 2; 0 of 2; 0 of 1; 0 of 2; ",
        "1 of 4; 0 of 1; 0 of 2; 1 of 2; 0 of 1; 0 of 2; ",
        "2 of 4; 0 of 1; 1 of 2; 0 of 2; 0 of 1; 1 of 2; ",
        "3 of 4; 0 of 1; 1 of 2; 1 of 2; 0 of 1; 1 of 2; ",
    ],
}


@pytest.mark.multihost
@pytest.mark.parametrize("count", BLOCKS)
def test_processes_that_share_rows_load_the_same(count: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={4 // count}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLUSTER, address, str(count), str(index)],
            env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    assert said == BLOCKS[count]
