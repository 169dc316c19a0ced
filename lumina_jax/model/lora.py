"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685): W + alpha / rank * A B with W frozen, A random, B zero."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.experiment import LoraConfig
from lumina_jax.model.params import Params, param_letters, unstack_layers
from lumina_jax.model.weights import CONTRACTED, letter_sizes
from lumina_jax.ops.products import product, rows

RANK = "A"  # the letter of the axis between the factors


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["base", "a", "b", "key"],
    meta_fields=["scale", "dropout"],
)
@dataclass(frozen=True)
class Adapted:
    """A weight whose inputs come first and its adapter, in the place of an array (an `ops.products.StoredWeight`)."""

    base: Array  # [inputs…, outputs…]
    a: Array  # [inputs…, A]
    b: Array  # [A, outputs…]
    key: Array | None  # of dropout; None: without
    scale: float
    dropout: float = 0.0  # share of what the adapter reads that is dropped where there is a key

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return self.base.shape

    def product(self, spec: str, x: Array, dtype: Any) -> Array:
        """`jnp.einsum(spec, x, weight)` as `dtype`: the base's product and, in the dtype of x, the adapter's."""
        (taken, weight), result = spec.split("->")[0].split(","), spec.split("->")[1]
        inputs = "".join(letter for letter in weight if letter not in result)
        rest = "".join(letter for letter in taken if letter not in inputs)
        outputs, a, b = weight[len(inputs) :], self.a.astype(x.dtype), self.b.astype(x.dtype)
        low = jnp.einsum(f"{taken},{inputs}{RANK}->{rest}{RANK}", self._kept(x), a)
        added = jnp.einsum(f"{rest}{RANK},{RANK}{outputs}->{result}", low, b)
        return product(spec, x, self.base, dtype) + (self.scale * added).astype(dtype)

    def rows(self, first: int, count: int) -> "Adapted":
        """The weight of `count` rows of its first axis, one of inputs."""
        return replace(self, base=rows(self.base, first, count), a=rows(self.a, first, count))

    def array(self) -> Array:
        """The weight merged, summed in float32, in the base's dtype; of stacked layers one for each."""
        base = self.base
        added = partial(jnp.tensordot, axes=1, precision="highest")
        is_stacked = self.a.ndim + self.b.ndim > base.ndim + 2
        added = jax.vmap(added) if is_stacked else added
        return (base.astype(jnp.float32) + self.scale * added(self.a, self.b)).astype(base.dtype)

    def _kept(self, x: Array) -> Array:
        if self.key is None or self.dropout == 0.0:
            return x
        keep = jax.random.bernoulli(self.key, 1 - self.dropout, x.shape)
        return jnp.where(keep, x / (1 - self.dropout), 0).astype(x.dtype)


def adapter_letters(config: TransformerConfig, lora: LoraConfig) -> Params:
    """The letters of the adapters: {"layers": {"00": {"q": {"a": "D A", "b": "A N H"}, …}}}, "L D A" where stacked."""

    def of(layer: Params) -> Params:
        return {name: _factor_letters(layer[name]) for name in lora.targets}

    layers = param_letters(config)["layers"]
    if config.scan_layers:
        return {"layers": of(layers)}
    return {"layers": {index: of(layer) for index, layer in layers.items()}}


def adapter_shapes(config: TransformerConfig, lora: LoraConfig) -> Params:
    """The shapes of the adapters, a tree as that of their letters."""
    sizes = {**letter_sizes(config), RANK: lora.rank, "L": config.num_layers}
    return jax.tree.map(
        lambda letters: tuple(sizes[letter] for letter in letters.split()),
        adapter_letters(config, lora),
    )


def count_adapter_params(config: TransformerConfig, lora: LoraConfig) -> int:
    """How many numbers the adapters hold."""
    shapes = adapter_shapes(config, lora)
    leaves = jax.tree.leaves(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return sum(math.prod(shape) for shape in leaves)


def init_adapters(config: TransformerConfig, lora: LoraConfig, key: Array) -> Params:
    """Fresh adapters, float32: A normal with 1/sqrt(inputs), B zero; the same numbers stacked and unstacked."""
    shapes = adapter_shapes(replace(config, scan_layers=True), lora)["layers"]
    layers = {}
    for index, name in enumerate(lora.targets):
        a, b = shapes[name]["a"], shapes[name]["b"]
        std = 1 / math.sqrt(math.prod(a[1:-1]))
        drawn = std * jax.random.normal(jax.random.fold_in(key, index), a)
        layers[name] = {"a": drawn, "b": jnp.zeros(b)}
    stacked = {"layers": layers}
    return stacked if config.scan_layers else unstack_layers(stacked)


def adapted(
    base: Params, adapters: Params, config: TransformerConfig, lora: LoraConfig, key: Any = None
) -> Params:
    """The tree for a forward pass: the weights of `base`, Adapted where there is an adapter.

    `key`: dropout's, from which every layer and matrix has its own; None: without.
    """
    layers, factors = base["layers"], adapters["layers"]
    names, keys = sorted(lora.targets), None
    if key is not None and lora.dropout > 0:
        apart = jax.random.fold_in(
            key, 2 * config.num_layers
        )  # `Block._drop` folds in smaller numbers
        keys = jax.random.split(apart, (config.num_layers, len(names)))

    def join(weights: Params, factors: Params, keys: Any) -> Params:
        joined = dict(weights)
        for place, name in enumerate(names):
            own = None if keys is None else keys[..., place]
            scale, pair = lora.alpha / lora.rank, factors[name]
            joined[name] = Adapted(weights[name], pair["a"], pair["b"], own, scale, lora.dropout)
        return joined

    if config.scan_layers:
        return {**base, "layers": join(layers, factors, keys)}
    found = {
        name: join(layers[name], factors[name], None if keys is None else keys[place])
        for place, name in enumerate(sorted(layers))
    }
    return {**base, "layers": found}


def merge(params: Params) -> Params:
    """A tree of weights with the arrays that Adapted stand for."""
    return jax.tree.map(
        lambda leaf: leaf.array() if isinstance(leaf, Adapted) else leaf,
        params,
        is_leaf=lambda leaf: isinstance(leaf, Adapted),
    )


def _factor_letters(letters: str) -> dict[str, str]:
    """Those of both factors of a weight: "L D N H" gives "L D A" and "L A N H"."""
    stacked, plain = ("L ", letters[2:]) if letters.startswith("L ") else ("", letters)
    names, num_inputs = plain.split(), len(CONTRACTED[plain])
    return {
        "a": stacked + " ".join([*names[:num_inputs], RANK]),
        "b": stacked + " ".join([RANK, *names[num_inputs:]]),
    }
