"""Which rows of a batch a process loads, and the arrays that are made of them."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lumina_jax.data.stepwise import Rows
from lumina_jax.experiment import MeshConfig
from lumina_jax.sharding import make_mesh
from lumina_jax.train.placing import place_batch, process_rows

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
