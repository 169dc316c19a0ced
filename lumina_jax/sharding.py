"""Where arrays live on a device mesh: one row of letters-to-axes per strategy, and no silent replication."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lumina_jax.dims import pick
from lumina_jax.experiment import MeshConfig

Axes = str | None
MAX_REPLICATED = (
    4096  # elements of an optimiser leaf that mirrors no weight (counters, coefficients)
)


@dataclass(frozen=True)
class Strategy:
    """Mesh axis of every letter, by role; None keeps the letter whole on every device.

    The embedding has rows of its own: stored by `embedding`, and read by `lookup` (a gather from a table
    sharded over V and D at once makes XLA rematerialise it whole).
    """

    batch: tuple[str, ...]  # mesh axes that split B
    weights: Mapping[str, Axes]
    embedding: Mapping[str, Axes]
    lookup: Mapping[str, Axes]
    activations: Mapping[str, Axes]

    @property
    def axes(self) -> tuple[str, ...]:
        """Every mesh axis the strategy uses."""
        tables = (self.weights, self.embedding, self.lookup, self.activations)
        named = [axis for table in tables for axis in table.values() if axis]
        return tuple(dict.fromkeys((*self.batch, *named)))


def _strategy(batch: tuple[str, ...], fsdp: Axes = None, tensor: Axes = None) -> Strategy:
    """A row from three choices: what splits the batch, the width of stored weights, and heads, F and V."""
    split = {"N": tensor, "K": tensor, "F": tensor, "V": tensor}
    whole = {"L": None, "H": None, "R": None, "A": None}
    return Strategy(
        batch=batch,
        weights={**split, **whole, "D": fsdp},
        embedding={"V": fsdp, "D": tensor},
        lookup={"V": None, "D": tensor},
        activations={**split, **whole, "D": None, "S": None, "T": None},
    )


STRATEGIES: Mapping[str, Strategy] = {
    "data": _strategy(("data",)),
    "fsdp": _strategy(("fsdp",), fsdp="fsdp"),
    "tensor": _strategy((), tensor="tensor"),
    "data_tensor": _strategy(("data",), tensor="tensor"),
    "data_fsdp": _strategy(("data", "fsdp"), fsdp="fsdp"),
    "fsdp_tensor": _strategy(("fsdp",), fsdp="fsdp", tensor="tensor"),
    "data_fsdp_tensor": _strategy(("data", "fsdp"), fsdp="fsdp", tensor="tensor"),
}


@dataclass(frozen=True)
class Layout:
    """A mesh and the strategy that places arrays on it; hashable, so it can be a static argument."""

    mesh: Mesh
    strategy: str

    def __post_init__(self) -> None:
        wanted, got = (
            set(pick(STRATEGIES, self.strategy, "strategy").axes),
            set(self.mesh.axis_names),
        )
        if wanted != got:
            raise ValueError(
                f"strategy {self.strategy!r} uses the mesh axes {sorted(wanted)}, the mesh has {sorted(got)}: "
                "name exactly those in MeshConfig.axes"
            )


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """The mesh of `config`, over all devices; one axis may have size -1, all that remain.

    Axes are Auto: jax 0.10's default, Explicit, asks for a sharding at every operation.
    """
    devices = list(jax.devices() if devices is None else devices)
    names, sizes = [name for name, _ in config.axes], [size for _, size in config.axes]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    legal = fixed > 0 and sizes.count(-1) <= 1 and len(devices) % fixed == 0
    sizes = [len(devices) // fixed if size == -1 else size for size in sizes] if legal else sizes
    if not legal or int(np.prod(sizes)) != len(devices):
        raise ValueError(
            f"mesh {dict(config.axes)} does not fit {len(devices)} devices: "
            "the sizes must multiply to that number, at most one may be -1"
        )
    auto = (AxisType.Auto,) * len(names)
    return jax.make_mesh(tuple(sizes), tuple(names), axis_types=auto, devices=devices)


def make_layout(config: MeshConfig, devices: list[Any] | None = None) -> Layout:
    """Mesh and strategy of `config`."""
    return Layout(make_mesh(config, devices), config.strategy)


def replicated(layout: Layout) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(layout.mesh, PartitionSpec())


def batch_sharding(layout: Layout) -> NamedSharding:
    """Rows split over the batch axes, everything else whole: for [B, S] token arrays."""
    return NamedSharding(layout.mesh, PartitionSpec(STRATEGIES[layout.strategy].batch or None))


def batch_ways(layout: Layout | None) -> int:
    """How many pieces the rows of a batch are split into: what their number must be a multiple of."""
    if layout is None:
        return 1
    return math.prod(layout.mesh.shape[axis] for axis in STRATEGIES[layout.strategy].batch)


def place_rows(x: jax.Array, layout: Layout | None) -> jax.Array:
    """`x` with its first axis, rows, split over the batch axes and all else whole; the identity without a layout."""
    return x if layout is None else jax.lax.with_sharding_constraint(x, batch_sharding(layout))


def constrain(
    x: jax.Array, letters: str, layout: Layout | None, role: str = "activations"
) -> jax.Array:
    """`x` held where `layout` wants an array of these letters; the identity without a layout.

    Raises ValueError for an unknown letter or a dimension its mesh axes do not divide.
    """
    if layout is None:
        return x
    return jax.lax.with_sharding_constraint(x, letter_sharding(letters, x.shape, layout, role))


def letter_sharding(
    letters: str, shape: tuple[int, ...], layout: Layout, role: str = "activations"
) -> NamedSharding:
    """Where an array of these letters lies; ValueError as for `constrain`."""
    what = f"{role.removesuffix('s')} {letters!r}"
    return NamedSharding(layout.mesh, _spec(role, letters, shape, layout, what))


def param_shardings(abstract_tree: Any, letters: Any, layout: Layout) -> Any:
    """One NamedSharding per weight.

    `letters` is a tree like `abstract_tree` with strings such as "D N H" (see `model.params.param_letters`).
    Raises ValueError naming the weight, its size and what would fit.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, names: _weight_sharding(_keys(path), leaf.shape, names, layout),
        abstract_tree,
        letters,
    )


def state_shardings(abstract_state: Any, letters: Any, layout: Layout) -> Any:
    """Shardings for a training state: leaves whose path ends like a weight's are placed like that weight.

    Counters and coefficients of at most MAX_REPLICATED elements are replicated; any other leaf is an error.
    """
    by_path = {_keys(path): names for path, names in jax.tree_util.tree_leaves_with_path(letters)}

    def place(path: Any, leaf: Any) -> NamedSharding:
        keys = _keys(path)
        for start in range(len(keys)):
            if keys[start:] in by_path:
                return _weight_sharding(keys[start:], leaf.shape, by_path[keys[start:]], layout)
        if int(np.prod(leaf.shape)) > MAX_REPLICATED:
            raise ValueError(
                f"state leaf {'/'.join(keys)} {leaf.shape} mirrors no weight: give it letters, "
                f"or at most {MAX_REPLICATED} elements to replicate it"
            )
        return replicated(layout)

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def describe(abstract_tree: Any, letters: Any, layout: Layout) -> str:
    """A table of every weight: shape, partition and MiB on one device, with the total."""
    shardings = param_shardings(abstract_tree, letters, layout)
    lines, total = [], 0.0
    leaves = jax.tree_util.tree_leaves_with_path(abstract_tree)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        local = sharding.shard_shape(leaf.shape)
        mebibytes = float(np.prod(local)) * leaf.dtype.itemsize / 2**20
        total += mebibytes
        spec = ", ".join(str(axis) for axis in sharding.spec)
        lines.append(f"{'/'.join(_keys(path)):40s} {leaf.shape!s:24s} ({spec}) {mebibytes:.2f} MiB")
    return "\n".join([*lines, f"{total:.2f} MiB per device"])


def _weight_sharding(
    keys: tuple[str, ...], shape: tuple[int, ...], letters: str, layout: Layout
) -> NamedSharding:
    """Placement of the weight at `keys`; the embedding table has its own row."""
    role = "embedding" if keys[0] == "embed" else "weights"
    return NamedSharding(layout.mesh, _spec(role, letters, shape, layout, "/".join(keys)))


def _spec(
    role: str, letters: str, shape: tuple[int, ...], layout: Layout, what: str
) -> PartitionSpec:
    """PartitionSpec of `letters` by the strategy's table `role`, checked against `shape`."""
    strategy = STRATEGIES[layout.strategy]
    table = {"B": strategy.batch or None, **getattr(strategy, role)}
    names = letters.split()
    if len(names) != len(shape):
        raise ValueError(f"{what}: {len(names)} letters {letters!r} for shape {tuple(shape)}")
    for name, size in zip(names, shape, strict=True):
        if name not in table:
            raise ValueError(
                f"{what}: strategy {layout.strategy!r} has no {role} row for letter {name!r}"
            )
        axes = table[name] or ()
        axes = (axes,) if isinstance(axes, str) else axes
        ways = int(np.prod([layout.mesh.shape[axis] for axis in axes]))
        if size % ways:
            fitting = [n for n in range(1, size + 1) if size % n == 0]
            raise ValueError(
                f"{what}: {name} of size {size} cannot be split {ways} ways over mesh axis {'+'.join(axes)}; "
                f"sizes that fit: {', '.join(map(str, fitting))}"
            )
    return PartitionSpec(*(table[name] for name in names))


def _keys(path: Any) -> tuple[str, ...]:
    """The dictionary keys of a tree path; positions and attribute names of optimiser states drop out."""
    return tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
