"""Attention of whole sequences on a mesh: the kernel of its devices, on each device's rows, heads and queries."""

from functools import partial
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from lumina_jax.dims import Array, Float, Int, typed
from lumina_jax.ops.attention import Kernel, attention, choose_kernel
from lumina_jax.ops.splash import Splash, make_splash
from lumina_jax.sharding import Layout, letter_axes, letter_sharding, letter_ways


@typed
def sharded_attention(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    segment_ids: Int[Array, "B S"] | None,
    layout: Layout | None,
) -> Float[Array, "B S N H"]:
    """`ops.attention.attention` by the fastest kernel for the devices of `layout`, or of this machine without one.

    Where a strategy splits a sequence, each device gathers the keys and values of its rows and keeps its queries.
    XLA's own kernel on unsplit sequences is left to the compiler to share out.
    """
    device = jax.devices()[0] if layout is None else layout.mesh.devices.flat[0]
    kernel = choose_kernel(device, query.dtype.name, query.shape[-1])
    if layout is None or (kernel == "xla" and not letter_axes("S", layout)):
        return attention(query, key, value, segment_ids=segment_ids, kernel=kernel)
    splash = None
    if kernel == "splash":
        ways = letter_ways("N", layout), letter_ways("S", layout)
        splash = make_splash(query.shape[1], query.shape[2], *ways)
    return attend_in_parts(query, key, value, segment_ids, layout, kernel, splash)


def attend_in_parts(
    query: Array,
    key: Array,
    value: Array,
    segment_ids: Array | None,
    layout: Layout,
    kernel: Kernel,
    splash: Splash | None = None,
) -> Array:
    """`sharded_attention` by one kernel, whatever the devices are."""
    sequence = letter_axes("S", layout)

    def spec(letters: str, x: Array) -> PartitionSpec:
        return letter_sharding(letters, x.shape, layout).spec

    def of_kernel() -> Splash | None:
        heads, queries = letter_axes("N", layout) or None, sequence or None
        place = NamedSharding(layout.mesh, PartitionSpec(heads, queries))
        return None if splash is None else splash.specs(place)

    @partial(
        jax.shard_map,
        mesh=layout.mesh,
        in_specs=(
            spec("B S N H", query),
            spec("B S K H", key),
            spec("B S K H", value),
            None if segment_ids is None else spec("B S", segment_ids),
            of_kernel(),
        ),
        out_specs=spec("B S N H", query),
        check_vma=False,  # Pallas' kernels don't say over which axes their results vary
    )
    def attend(query: Array, key: Array, value: Array, segments: Any, splash: Any) -> Array:
        options = {"segment_ids": segments, "kernel": kernel, "splash": splash}
        if not sequence:
            return attention(query, key, value, **options)
        gather = partial(jax.lax.all_gather, axis_name=sequence, axis=1, tiled=True)
        options["key_segment_ids"] = None if segments is None else gather(segments)
        part = jax.lax.axis_index(sequence)
        return attention(query, gather(key), gather(value), part=part, **options)

    return attend(query, key, value, segment_ids, splash)
