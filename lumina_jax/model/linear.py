"""Products with a layer's weights on a mesh: gathered in the compute dtype, their gradients scattered where they lie.

Left alone, libtpu sums each gradient whole on every device, all of a layer's at its end (docs/benchmarks.md, "Training
ahead of time").
"""

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.weights import weight
from lumina_jax.ops.low_precision import LowPrecisionProduct
from lumina_jax.ops.products import StoredWeight, product
from lumina_jax.sharding import Layout, gathered, letter_axes, letter_sharding, steps_over


def linear(module: nn.Module, name: str, letters: str, spec: str, x: Array) -> Array:
    """`jnp.einsum(spec, x, weight)` with the weight `name` of `module`, in the dtype of x.

    A stored form (`ops.products.StoredWeight`) multiplies by itself; the base of an adapter is gathered for it.
    """
    found = weight(module, name, letters)
    layout: Layout | None = module.layout  # pyright: ignore[reportAttributeAccessIssue]
    config: TransformerConfig = module.config  # pyright: ignore[reportAttributeAccessIssue]
    if config.matmul_dtype:
        if layout is not None and not isinstance(found, StoredWeight):
            found = gathered(found.astype(x.dtype), letters, layout)
        return LowPrecisionProduct(config.matmul_dtype)(spec, x, found)
    if isinstance(found, StoredWeight):
        if layout is not None and hasattr(found, "base"):
            base: Any = found
            base = gathered(base.base.astype(x.dtype), letters, layout)
            found = replace(found, base=base)  # pyright: ignore[reportArgumentType]
        return product(spec, x, found)
    if layout is None:
        return product(spec, x, found)
    return sharded_product(spec, letters, layout, x, found.astype(x.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def sharded_product(spec: str, letters: str, layout: Layout, x: Array, weight: Array) -> Array:
    """`product(spec, x, weight)` of activations and a weight, each where the layout has arrays of its letters.

    Going back each device multiplies its own tokens into a gradient, which is summed and scattered in one collective.
    """
    return product(spec, x, gathered(weight, letters, layout))


def _forward(spec: str, letters: str, layout: Layout, x: Array, weight: Array) -> tuple:
    return sharded_product(spec, letters, layout, x, weight), (x, weight)


def _backward(spec: str, letters: str, layout: Layout, kept: tuple, gradient: Array) -> tuple:
    x, weight = kept
    whole: Any = gathered(weight, letters, layout)
    (of_x,) = jax.vjp(lambda x: product(spec, x, whole), x)[1](gradient)
    return of_x, _weight_gradient(spec, letters, layout, x, whole, gradient)


sharded_product.defvjp(_forward, _backward)


def _weight_gradient(
    spec: str, letters: str, layout: Layout, x: Array, whole: Array, gradient: Array
) -> Array:
    """That of the weight, where it is stored: this device's tokens, then reduce-scatters and a sum over copies."""
    (of_x, _), of_result = spec.split("->")[0].split(","), spec.split("->")[1]
    stored = letter_axes("D", layout, "weights")
    summed = (*letter_axes("B", layout), *letter_axes("S", layout))
    copies = tuple(axis for axis in summed if axis not in stored)
    axis = letters.split().index("D")

    def place(names: str, x: Array, role: str = "activations") -> PartitionSpec:
        return letter_sharding(" ".join(names), x.shape, layout, role).spec

    @partial(
        jax.shard_map,
        mesh=layout.mesh,
        in_specs=(
            place(of_x, x),
            place(letters.replace(" ", ""), whole, "gathered"),
            place(of_result, gradient),
        ),
        out_specs=place(letters.replace(" ", ""), whole, "weights"),
        check_vma=False,
    )
    def of_weight(x: Array, whole: Array, gradient: Array) -> Array:
        (own,) = jax.vjp(lambda weight: product(spec, x, weight), whole)[1](gradient)
        for name, groups in steps_over(layout.mesh, stored):
            own = jax.lax.psum_scatter(
                own, name, scatter_dimension=axis, axis_index_groups=groups, tiled=True
            )
        return jax.lax.psum(own, copies) if copies else own

    return of_weight(x, whole, gradient)
