"""How arrays are split: one row of letters-to-axes per strategy, and the device mesh that has those axes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from lumina_jax.dims import pick
from lumina_jax.experiment import MeshConfig

Axes = str | tuple[str, ...] | None


@dataclass(frozen=True)
class Strategy:
    """Mesh axes of every letter, by role; None keeps the letter whole on every device.

    `weights` is how they are stored, gradients and moments alike; `gathered` how a product reads them. The embedding
    has a row of its own: each device keeps some columns of all its rows, looks up those of all tokens, and the devices
    exchange them, so that neither the table nor its gradient is ever whole anywhere; axes of the batch come last there,
    so that the exchange along them leaves whole columns for that along the others (`arrays.own_tokens`).
    """

    batch: tuple[str, ...]  # mesh axes that split B
    weights: Mapping[str, Axes]
    gathered: Mapping[str, Axes]
    embedding: Mapping[str, Axes]
    activations: Mapping[str, Axes]

    @property
    def axes(self) -> tuple[str, ...]:
        """Every mesh axis the strategy uses."""
        tables = (self.weights, self.gathered, self.embedding, self.activations)
        named = [axis for table in tables for axes in table.values() for axis in as_tuple(axes)]
        return tuple(dict.fromkeys((*self.batch, *named)))


def as_tuple(axes: Axes) -> tuple[str, ...]:
    """The mesh axes of a letter."""
    return (axes,) if isinstance(axes, str) else axes or ()


def _strategy(
    batch: tuple[str, ...], fsdp: Axes = None, tensor: str | None = None, sequence: Axes = None
) -> Strategy:
    """A row from four choices: what splits the batch, the width of stored weights, heads with F and V, and S."""
    split = {"N": tensor, "K": tensor, "F": tensor, "V": tensor}
    whole = {"L": None, "H": None, "R": None, "A": None}
    stored = (*as_tuple(fsdp), *as_tuple(sequence)) or None
    columns = (*as_tuple(sequence), *as_tuple(tensor), *as_tuple(fsdp)) or None
    return Strategy(
        batch=batch,
        weights={**split, **whole, "D": stored},
        gathered={**split, **whole, "D": None},
        embedding={"V": None, "D": columns},
        activations={**split, **whole, "D": None, "S": sequence, "T": None},
    )


STRATEGIES: Mapping[str, Strategy] = {
    "data": _strategy(("data",)),
    "fsdp": _strategy(("fsdp",), fsdp="fsdp"),
    "tensor": _strategy((), tensor="tensor"),
    "sequence": _strategy((), sequence="sequence"),
    "data_tensor": _strategy(("data",), tensor="tensor"),
    # on several slices the data axis crosses the slower network between them, fsdp stays within (`make_mesh`)
    "data_fsdp": _strategy(("data", "fsdp"), fsdp="fsdp"),
    "fsdp_tensor": _strategy(("fsdp",), fsdp="fsdp", tensor="tensor"),
    "fsdp_sequence": _strategy(("fsdp",), fsdp="fsdp", sequence="sequence"),
    "data_fsdp_tensor": _strategy(("data", "fsdp"), fsdp="fsdp", tensor="tensor"),
    "data_fsdp_sequence": _strategy(("data", "fsdp"), fsdp="fsdp", sequence="sequence"),
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


def mesh_sizes(config: MeshConfig, num_devices: int) -> tuple[int, ...]:
    """The size of every axis on so many devices; ValueError where there are none such."""
    sizes = [size for _, size in config.axes]
    fixed = math.prod(size for size in sizes if size != -1)
    legal = fixed > 0 and sizes.count(-1) <= 1 and num_devices % fixed == 0
    sizes = [num_devices // fixed if size == -1 else size for size in sizes] if legal else sizes
    if not legal or math.prod(sizes) != num_devices:
        raise ValueError(
            f"mesh {dict(config.axes)} does not fit {num_devices} devices: "
            "the sizes must multiply to that number, at most one may be -1"
        )
    return tuple(sizes)


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """The mesh of `config`, over all devices; one axis may have size -1, all that remain.

    Devices of several TPU slices: the axis "data" goes over the slices first, all others stay within one.
    Axes are Auto: jax 0.10's default, Explicit, asks for a sharding at every operation.
    """
    devices = list(jax.devices() if devices is None else devices)
    names, sizes = [name for name, _ in config.axes], mesh_sizes(config, len(devices))
    auto = (AxisType.Auto,) * len(names)
    num_slices = count_slices(devices)
    if num_slices == 1:
        return jax.make_mesh(sizes, tuple(names), axis_types=auto, devices=devices)
    across = [num_slices if name == "data" else 1 for name in names]
    if "data" not in names or sizes[names.index("data")] % num_slices:
        raise ValueError(
            f'mesh {dict(zip(names, sizes, strict=True))} on {num_slices} slices: want an axis "data" whose size is '
            f"a multiple of {num_slices}, such as strategy data_fsdp with axes data {num_slices}, fsdp -1"
        )
    within = [size // ways for size, ways in zip(sizes, across, strict=True)]
    grid = mesh_utils.create_hybrid_device_mesh(
        within, across, devices, allow_split_physical_axes=True
    )
    return Mesh(grid, tuple(names), axis_types=auto)


def count_slices(devices: list[Any]) -> int:
    """How many TPU slices the devices are of; GPUs have a slice_index as well, one a host, which says nothing here."""
    slices = {getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}
    return max(len(slices), 1)


def make_layout(config: MeshConfig, devices: list[Any] | None = None) -> Layout:
    """Mesh and strategy of `config`."""
    return Layout(make_mesh(config, devices), config.strategy)
