"""Batches on the mesh: which rows a process loads, and arrays of all processes made of what each has."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from lumina_jax.data.stepwise import Rows


def process_rows(sharding: NamedSharding, process: int | None = None) -> Rows:
    """The rows that the devices of `process` (this one) hold, of any array [B, …] placed by `sharding`.

    Processes whose devices hold the same rows load the same ones: where the batch axes do not cover all processes, or
    a row itself is split over several.
    """
    process = jax.process_index() if process is None else process
    size = sharding.mesh.size
    shape = (size,) * max(1, len(sharding.spec))  # divides, however the mesh's axes are used
    share = sharding.shard_shape(shape)[0]
    held = sharding.devices_indices_map(shape)
    starts = {
        index[0].indices(size)[0] // share
        for device, index in held.items()
        if device.process_index == process
    }
    return Rows(tuple(sorted(starts)), size // share)


def place_batch(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding, rows: Rows
) -> dict[str, jax.Array]:
    """The global arrays [B, …] of a batch of which every process has its own rows, whole."""
    return {name: _place(array, sharding, rows) for name, array in batch.items()}


def _place(array: np.ndarray, sharding: NamedSharding, rows: Rows) -> jax.Array:
    share = len(array) // len(rows.blocks)

    def part(index: Any) -> np.ndarray:
        """What one device holds: of the rows, always one block."""
        block, _ = divmod(index[0].start or 0, share)
        start = rows.blocks.index(block) * share
        return array[start : start + share][:, *index[1:]]

    shape = (share * rows.count, *array.shape[1:])
    return jax.make_array_from_callback(shape, sharding, part)
