"""The product of activations and a weight, whatever form the weight is stored in."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from lumina_jax.dims import Array

FEW_TOKENS = 64  # up to so many OutputRows multiply from the left


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


@partial(
    jax.tree_util.register_dataclass, data_fields=["matrix"], meta_fields=["shape", "contracted"]
)
@dataclass(frozen=True)
class OutputRows:
    """A weight as a matrix with a row of inputs for every output, in the place of its array (a StoredWeight).

    For XLA's CPU products of few tokens: with the matrix on the left its rows are read as they lie, and weights that
    come from memory take less time than by `x @ weight` (docs/benchmarks.md, "Next to PyTorch").
    """

    matrix: Array  # [outputs, inputs]
    shape: tuple[int, ...]  # that of the weight
    contracted: tuple[int, ...]  # its axes that a product sums over

    @classmethod
    def of(cls, weight: Array, contracted: tuple[int, ...]) -> "OutputRows":
        """`weight`, whose axes `contracted` a product sums over; the head's table is such a matrix as it is."""
        if weight.ndim == 2 and contracted == (1,):
            return cls(weight, weight.shape, contracted)
        turned = jnp.moveaxis(weight, contracted, range(-len(contracted), 0))
        num_inputs = math.prod(weight.shape[axis] for axis in contracted)
        return cls(turned.reshape(-1, num_inputs), weight.shape, contracted)

    def product(self, spec: str, x: Array, dtype: Any) -> Array:
        """`jnp.einsum(spec, x, weight)` as `dtype`, for x [B, S, inputs…] and a result [B, S, outputs…]."""
        tokens = x.reshape(-1, self.matrix.shape[1])
        if len(tokens) > FEW_TOKENS:
            y = jnp.einsum("MI,OI->MO", tokens, self.matrix, preferred_element_type=dtype)
        else:
            y = jnp.einsum("OI,MI->OM", self.matrix, tokens, preferred_element_type=dtype)
            # Without the barrier the compiler turns the product round again: (W x^T)^T is x W^T.
            y = jax.lax.optimization_barrier(y).T
        return y.reshape(*x.shape[:2], *self._outputs)

    def rows(self, first: int, count: int) -> "OutputRows":
        """The weight of `count` rows of its first axis, which has to be one of outputs."""
        cut = jax.lax.slice_in_dim(self.matrix, first, first + count)
        return OutputRows(cut, (count, *self.shape[1:]), self.contracted)

    def array(self) -> Array:
        """The weight as its array."""
        inputs = [self.shape[axis] for axis in self.contracted]
        turned = self.matrix.reshape(*self._outputs, *inputs)
        return jnp.moveaxis(turned, range(-len(inputs), 0), self.contracted)

    @property
    def _outputs(self) -> list[int]:
        return [size for axis, size in enumerate(self.shape) if axis not in self.contracted]


def product(spec: str, x: Array, weight: Any, dtype: Any = None) -> Array:
    """`jnp.einsum(spec, x, weight)` in the dtype of x, or summed and returned as `dtype`."""
    if isinstance(weight, StoredWeight):
        return weight.product(spec, x, dtype or x.dtype)
    if spec == "BSNH,NHD->BSD":
        # As one axis: of two, a GPU's compiler may swap their order, and copies the weight to do so.
        x, weight = x.reshape(*x.shape[:2], -1), weight.reshape(-1, weight.shape[-1])
        spec = "BSE,ED->BSD"
    return jnp.einsum(spec, x, weight.astype(x.dtype), preferred_element_type=dtype)


def plain_weights(params: Any) -> Any:
    """A tree of weights with the arrays that OutputRows stand for; those in whole numbers stay as they are."""
    return jax.tree.map(as_array, params, is_leaf=is_stored)


def as_array(leaf: Any) -> Any:
    """A leaf of `plain_weights`."""
    return leaf.array() if isinstance(leaf, OutputRows) else leaf


def fits(leaf: Any, dtype: Any) -> bool:
    """Whether a stored form may stay as it is where `dtype` is wanted: OutputRows of another are arrays to be cast."""
    return is_stored(leaf) and not (
        isinstance(leaf, OutputRows) and leaf.matrix.dtype != jnp.dtype(dtype)
    )


def rows(weight: Any, first: int, count: int) -> Any:
    """`weight[first : first + count]`, whatever form the weight is stored in."""
    if isinstance(weight, StoredWeight):
        return weight.rows(first, count)
    return jax.lax.slice_in_dim(weight, first, first + count)


def is_stored(leaf: Any) -> bool:
    """Whether a node of a tree of weights is a stored form: for `jax.tree.map(…, is_leaf=is_stored)`."""
    return isinstance(leaf, StoredWeight)
