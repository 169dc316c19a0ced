"""The product of activations and a weight, whatever form the weight is stored in."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from lumina_jax.dims import Array


@runtime_checkable
class StoredWeight(Protocol):
    """A weight in a form of its own, such as integers with scales; a pytree, in the place of its array."""

    def product(self, spec: str, x: Array) -> Array:
        """`jnp.einsum(spec, x, weight)` in the dtype of x."""
        ...


def product(spec: str, x: Array, weight: Any) -> Array:
    """`jnp.einsum(spec, x, weight)` in the dtype of x."""
    if isinstance(weight, StoredWeight):
        return weight.product(spec, x)
    if spec == "BSNH,NHD->BSD":
        # As one axis: of two, a GPU's compiler may swap their order, and copies the weight to do so.
        x, weight = x.reshape(*x.shape[:2], -1), weight.reshape(-1, weight.shape[-1])
        spec = "BSE,ED->BSD"
    return jnp.einsum(spec, x, weight.astype(x.dtype))
