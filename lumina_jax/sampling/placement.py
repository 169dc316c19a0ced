"""What decoders ask of a machine: where weights, cache and rows lie on a mesh, and how weights lie in memory.

Every decoder, over whatever mesh: `place_weights` once a model, `with_code_head` once a call, `sharded_cache` inside
the prefill, and `layout` handed to `forward`, whose constraints keep all of it in place.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format
from jax.experimental.layout import Layout as MemoryLayout

from lumina_jax.config import ModelConfig, TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.model.precision import keep_params, product_letters
from lumina_jax.model.weights import CONTRACTED
from lumina_jax.ops.cache import Cache, init_cache
from lumina_jax.ops.products import OutputRows, as_array, fits, is_stored, rows
from lumina_jax.sharding import (
    Layout,
    constrain,
    letter_sharding,
    param_shardings,
    replicated,
    row_sharding,
)
from lumina_jax.vqgan.codec import abstract_vqgan

# Axes from the slowest to the fastest in memory, of weights that a TPU's compiler would otherwise turn round in every
# run of the program: 3 GiB of copies for a 7B (docs/benchmarks.md, "Decoding ahead of time").
TPU_ORDER = {"D N H": (1, 0, 2), "D K H": (1, 0, 2)}
LARGE = (
    2**19
)  # elements from which a CPU gains by `OutputRows`; smaller matrices stay in its own memory


def model_shardings(config: ModelConfig, layout: Layout | None) -> dict[str, Any] | None:
    """Where a checkpoint is read to: the transformer split, the VQGAN whole on every device; None without a mesh."""
    if layout is None:
        return None
    whole = jax.tree.map(lambda _: replicated(layout), abstract_vqgan(config.vqgan))
    return {"transformer": weight_shardings(config.transformer, layout), "vqgan": whole}


def weight_shardings(config: TransformerConfig, layout: Layout) -> Any:
    """One NamedSharding per unstacked weight; ValueError of one line for a model that the mesh does not divide."""
    config = replace(config, scan_layers=False)
    return param_shardings(abstract_params(config), param_letters(config), layout)


def weight_formats(config: TransformerConfig, layout: Layout | None = None) -> Any:
    """Where and in which order each unstacked weight lies: a Format on TPUs for those of TPU_ORDER, else a Sharding.

    Without a mesh: on the first device.
    """
    letters = param_letters(replace(config, scan_layers=False))
    if layout is None:
        device = jax.local_devices()[0]
        places = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(device), letters)
    else:
        device = layout.mesh.devices.flat[0]
        places = weight_shardings(config, layout)
    orders = TPU_ORDER if device.platform == "tpu" else {}
    return jax.tree.map(
        lambda names, place: (
            Format(MemoryLayout(orders[names]), place) if names in orders else place
        ),
        letters,
        places,
    )


def place_weights(
    params: Any, config: TransformerConfig, layout: Layout | None = None, donate: bool = False
) -> Any:
    """Unstacked weights in the compute dtype, where and in the order in which the decoders read them.

    `donate` frees each of the given arrays once it has been copied.
    """
    cast = jax.tree.map(
        partial(_cast, dtype=config.compute_dtype, donate=donate), params, is_leaf=is_stored
    )
    platform = jax.local_devices()[0].platform
    if layout is None and platform != "tpu":
        placed = jax.tree.map(jnp.asarray, cast)
        is_turned = platform == "cpu" and config.compute_dtype == "float32"
        return _as_output_rows(placed, config, donate) if is_turned else placed
    return jax.tree.map(partial(_put, donate=donate), weight_formats(config, layout), cast)


def with_code_head(params: Any, codes: tuple[int, int], layout: Layout | None = None) -> Any:
    """The weights with the head's rows of the image codes, (first id, how many), in the place of the whole head.

    Cut out once a call: a slice of a sharded table is spread over all devices again, not in every step.
    """
    return {**params, "head": {"table": _rows(params["head"]["table"], codes, layout)}}


def cache_shardings(
    config: TransformerConfig, num_rows: int, num_slots: int, layout: Layout
) -> Cache:
    """Where a cache lies: heads split over the devices, rows over the batch axes; a Cache of shardings."""
    abstract = jax.eval_shape(lambda: init_cache(config, num_rows, num_slots))
    return jax.tree.map(lambda leaf: _cache_place(leaf, layout), abstract)


def sharded_cache(
    config: TransformerConfig, num_rows: int, num_slots: int, layout: Layout | None = None
) -> Cache:
    """An empty cache in its `cache_shardings`, for use inside a compiled function."""
    return constrain_cache(init_cache(config, num_rows, num_slots), layout)


def constrain_cache(cache: Cache, layout: Layout | None) -> Cache:
    """A cache held where `cache_shardings` puts it, inside a compiled function."""
    if layout is None:
        return cache
    places = jax.tree.map(lambda leaf: _cache_place(leaf, layout), cache)
    return jax.lax.with_sharding_constraint(cache, places)


def _cache_place(leaf: Any, layout: Layout) -> Any:
    if leaf.ndim < 3:
        return row_sharding(layout)
    return letter_sharding("B K T H"[: 2 * leaf.ndim], leaf.shape, layout)


def _as_output_rows(params: Any, config: TransformerConfig, donate: bool) -> Any:
    """Every large matrix that tokens are multiplied with as `OutputRows`: how a CPU reads it fastest, in float32."""
    letters = product_letters(config)

    def turn(name: str, leaf: Any) -> Any:
        contracted = CONTRACTED.get(letters.get(name, ""))
        if is_stored(leaf) or contracted is None or leaf.size < LARGE:
            return leaf
        turned = OutputRows.of(leaf, contracted)
        if donate and turned.matrix is not leaf:
            turned.matrix.block_until_ready()
            leaf.delete()
        return turned

    return keep_params(params, turn)


def _put(place: Any, leaf: Any, donate: bool) -> Any:
    """A weight where it is to lie; of a stored form what has its shape, the scales stay where they are."""
    leaf = as_array(leaf)
    if not is_stored(leaf):
        return jax.device_put(leaf, place, donate=donate)
    return jax.tree.map(
        lambda part: part if part.shape != leaf.shape else jax.device_put(part, place), leaf
    )


def _cast(leaf: Any, dtype: str, donate: bool) -> Any:
    """`leaf`, of numpy or jax, in another dtype and the same place; a stored form as it is."""
    if fits(leaf, dtype):
        return leaf
    leaf = as_array(leaf)
    if leaf.dtype == jnp.dtype(dtype):
        return leaf
    cast = leaf.astype(dtype)
    if donate and isinstance(leaf, jax.Array):
        leaf.delete()
    return cast


@partial(jax.jit, static_argnames=("codes", "layout"))
def _rows(table: Any, codes: tuple[int, int], layout: Layout | None) -> Any:
    def spread(part: Array) -> Array:
        whole = part.shape == (codes[1], table.shape[1])
        return constrain(part, "V D", layout, role="weights") if whole else part

    return jax.tree.map(spread, rows(table, *codes))
