"""Real model sizes on meshes of 4 to 512 devices that nobody has: every array split as its strategy promises."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType

from lumina_jax.experiment import MeshConfig
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.model.presets import PRESETS
from lumina_jax.plan.split import plan_layout
from lumina_jax.sharding import (
    STRATEGIES,
    Layout,
    batch_ways,
    letter_ways,
    make_mesh,
    param_shardings,
    state_shardings,
)

CONFIGS = {
    name: replace(PRESETS[name].transformer, scan_layers=True) for name in ("scenes", "7b", "34b")
}
MESHES = {  # of 8, and of hundreds
    "data": ("data=8", "data=512"),
    "fsdp": ("fsdp=8", "fsdp=256"),
    "tensor": ("tensor=4", "tensor=8"),
    "sequence": ("sequence=8", "sequence=16"),
    "data_tensor": ("data=2,tensor=4", "data=64,tensor=8"),
    "data_fsdp": ("data=2,fsdp=4", "data=2,fsdp=256"),
    "fsdp_tensor": ("fsdp=2,tensor=4", "fsdp=64,tensor=8"),
    "fsdp_sequence": ("fsdp=4,sequence=2", "fsdp=64,sequence=4"),
    "data_fsdp_tensor": ("data=2,fsdp=2,tensor=2", "data=2,fsdp=32,tensor=8"),
    "data_fsdp_sequence": ("data=2,fsdp=2,sequence=2", "data=2,fsdp=128,sequence=2"),
}
FULLY_SPLIT = (
    "fsdp",
    "fsdp_tensor",
    "fsdp_sequence",
    "data_fsdp",
    "data_fsdp_tensor",
    "data_fsdp_sequence",
)


def layout_of(mesh: str) -> Layout:
    config = MeshConfig.parse(mesh)
    return plan_layout(config, config.num_devices)


def local_bytes(tree: Any, places: Any, keep: Any = lambda leaf: True) -> int:
    """What one device holds of the leaves that `keep` names."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(places), strict=True)
    return sum(
        int(np.prod(place.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf, place in pairs
        if keep(leaf)
    )


def is_norm(leaf: Any) -> bool:
    """Scales and biases, stacked [L, D] or [L, R, H], and the optimiser's counter; matrices and tables are larger."""
    return leaf.size < 10**6


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("preset", ["7b", "34b"])
@pytest.mark.parametrize("strategy", FULLY_SPLIT)
def test_weights_and_moments_are_split_over_all_devices_but_copies(strategy, preset, size):
    """Of each copy of the weights ("data"), such as a slice's, every device has its share and no more than 1 % over."""
    config, layout = CONFIGS[preset], layout_of(MESHES[strategy][size])
    abstract = abstract_params(config)
    state = (abstract, jax.eval_shape(optax.adamw(1e-3).init, abstract))
    places = state_shardings(state, param_letters(config), layout)
    of_copy = layout.mesh.size // dict(layout.mesh.shape).get("data", 1)
    leaves = jax.tree.leaves(state)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    norms = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if is_norm(leaf))
    large = local_bytes(state, places, lambda leaf: not is_norm(leaf)) * of_copy
    assert total - norms <= large <= 1.01 * (total - norms)
    assert norms < 0.001 * total
    assert total > 3 * 4 * 6.9e9  # weights and two moments, float32


@pytest.mark.parametrize("preset", CONFIGS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_preset_is_placed_on_eight_devices_or_told_what_fits(strategy, preset):
    """All three divide into these meshes: every axis of every weight has a row."""
    config, layout = CONFIGS[preset], layout_of(MESHES[strategy][0])
    abstract = abstract_params(config)
    places = param_shardings(abstract, param_letters(config), layout)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
    ways = letter_ways("D", layout, "weights") * letter_ways("F", layout, "weights")
    assert local_bytes(abstract, places) == pytest.approx(total / ways, rel=0.03)
    assert batch_ways(layout) <= layout.mesh.size


def test_sizes_that_do_not_fit_are_refused_with_those_that_do():
    """The small model's four heads on eight tensor devices; a width of 128 on 256."""
    for mesh, message in {
        "tensor=8": r"layers/k: K of size 4 cannot be split 8 ways over mesh axis tensor; sizes that fit: 1, 2, 4",
        "fsdp=256": r"embed/table: D of size 128 cannot be split 256 ways over mesh axis fsdp; .* 64, 128",
    }.items():
        with pytest.raises(ValueError, match=message):
            config = CONFIGS["scenes"]
            param_shardings(abstract_params(config), param_letters(config), layout_of(mesh))


@dataclass(frozen=True)
class Chip:
    """As much of a device as a mesh looks at."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "fake"

    @property
    def process_index(self) -> int:
        """A host a slice."""
        return self.slice_index


def slices_of(count: int, size: int) -> list[Any]:
    """Devices of `count` slices, in an order in which those of a slice are apart."""
    return [
        Chip(index * size + place, index, (place, 0, 0))
        for place in range(size)
        for index in range(count)
    ]


@pytest.mark.parametrize("axes", ["data=2,fsdp=4", "data=4,fsdp=2", "data=2,fsdp=2,tensor=2"])
def test_data_goes_over_slices_and_all_else_stays_within_one(axes):
    mesh = make_mesh(MeshConfig.parse(axes), slices_of(2, 4))
    names = tuple(mesh.axis_names)
    index = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    data = np.moveaxis(index, names.index("data"), 0).reshape(mesh.shape["data"], -1)
    assert (data == data[:, :1]).all()  # one step along "data" is in one slice
    first = data[:, 0]
    assert (first == np.sort(first)).all() and {*first} == {0, 1}
    assert mesh.axis_types == (AxisType.Auto,) * len(names)


@pytest.mark.parametrize("axes", ["fsdp=8", "data=1,fsdp=8", "fsdp=4,tensor=2"])
def test_slices_without_an_axis_across_them_are_refused(axes):
    with pytest.raises(ValueError, match=r'on 2 slices: want an axis "data" .* multiple of 2'):
        make_mesh(MeshConfig.parse(axes), slices_of(2, 4))


def test_layouts_of_no_devices_are_for_counting():
    assert isinstance(layout_of("fsdp=256").mesh, AbstractMesh)
