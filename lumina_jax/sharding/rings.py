"""How the devices of a mesh axis are wired: SparseCores gather and scatter along one ring of chips at a time."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from lumina_jax.chips import chip_of

# generations whose SparseCores gather and scatter beside the products
SPARSE_CORES = ("v5p", "v6e")
Groups = list[list[int]]  # positions along a mesh axis, as `axis_index_groups` of JAX's collectives


def ring_steps(mesh: Mesh, axis: str) -> list[Groups | None]:
    """The groups of the collectives that together are one over `axis`, outermost first; [None]: one over all.

    A torus of 16x16 chips that one axis covers row by row: among the 16 chips of a column, and of a row. A
    reduce-scatter takes them in this order, a gather in the opposite; all steps together send what one would. Where one
    collective crosses two dimensions of a torus XLA keeps gathers off the SparseCores, and sums whole arrays where it
    should scatter (libtpu 0.0.52).
    """
    devices = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), 0).reshape(
        mesh.shape[axis], -1
    )[:, 0]
    chip = chip_of(devices[0])
    if devices[0].platform != "tpu" or chip is None or chip.name not in SPARSE_CORES:
        return [None]
    return list(_rings(box_of([device.coords for device in devices]))) or [None]


def steps_over(mesh: Mesh, axes: Sequence[str]) -> list[tuple[str, Groups | None]]:
    """(axis, groups) of the collectives that together are one over all `axes`, outermost first."""
    return [(axis, groups) for axis in axes for groups in ring_steps(mesh, axis)]


def box_of(coordinates: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The sides of the box of chips that `coordinates` fill row by row, those of one chip left out; () for any other.

    >>> box_of([(0, 0, 5), (0, 1, 5), (1, 0, 5), (1, 1, 5)])
    (2, 2)
    """
    places = np.array(coordinates) - np.min(coordinates, axis=0)
    sides = places.max(axis=0) + 1
    if math.prod(sides) != len(places):
        return ()
    in_order = np.ravel_multi_index(tuple(places.T), tuple(sides)) == np.arange(len(places))
    return tuple(int(side) for side in sides if side > 1) if in_order.all() else ()


def _rings(box: tuple[int, ...]) -> Any:
    """For each side of a box the groups of positions that differ along it alone."""
    positions = np.arange(math.prod(box)).reshape(box)
    for side, length in enumerate(box):
        yield np.moveaxis(positions, side, -1).reshape(-1, length).tolist()
