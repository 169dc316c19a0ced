"""The product of activations and a weight, whatever form the weight is stored in."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from lumina_jax.dims import Array


@runtime_checkable
class StoredWeight(Protocol):
    """A weight in a form of its own, such as integers with scales; a pytree, in the place of its array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def product(self, spec: str, x: Array, dtype: Any) -> Array:
        """`jnp.einsum(spec, x, weight)` as `dtype`."""
        ...

    def rows(self, first: int, count: int) -> "StoredWeight":
        """The weight of `count` rows of the first axis."""
        ...


def product(spec: str, x: Array, weight: Any, dtype: Any = None) -> Array:
    """`jnp.einsum(spec, x, weight)` in the dtype of x, or summed and returned as `dtype`."""
    if isinstance(weight, StoredWeight):
        return weight.product(spec, x, dtype or x.dtype)
    if spec == "BSNH,NHD->BSD":
        # As one axis: of two, a GPU's compiler may swap their order, and copies the weight to do so.
        x, weight = x.reshape(*x.shape[:2], -1), weight.reshape(-1, weight.shape[-1])
        spec = "BSE,ED->BSD"
    return jnp.einsum(spec, x, weight.astype(x.dtype), preferred_element_type=dtype)


def rows(weight: Any, first: int, count: int) -> Any:
    """`weight[first : first + count]`, whatever form the weight is stored in."""
    if isinstance(weight, StoredWeight):
        return weight.rows(first, count)
    return jax.lax.slice_in_dim(weight, first, first + count)


def is_stored(leaf: Any) -> bool:
    """Whether a node of a tree of weights is a stored form: for `jax.tree.map(…, is_leaf=is_stored)`."""
    return isinstance(leaf, StoredWeight)
