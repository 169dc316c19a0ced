"""What a layout splits, in numbers: read off the letters of its strategy's rows, for counting."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import LoraConfig, MeshConfig
from lumina_jax.model.lora import adapter_letters, adapter_shapes
from lumina_jax.model.params import abstract_params, find_weights, param_letters
from lumina_jax.sharding import STRATEGIES, Layout
from lumina_jax.sharding.strategies import as_tuple, mesh_sizes


class Product(NamedTuple):
    """Products of a layer that read the same activations."""

    weights: tuple[str, ...]
    summed: str  # letters
    given: str  # letters that their results have beside B and S


PRODUCTS = (
    Product(("q", "k", "v"), "D", "N"),
    Product(("o",), "N H", "D"),
    Product(("gate", "up"), "D", "F"),
    Product(("down",), "F", "D"),
)


class Split(NamedTuple):
    """A strategy on a mesh: mesh axes of every letter by role, and how many devices each has."""

    sizes: Mapping[str, int]  # of mesh axes, outermost first
    weights: Mapping[str, tuple[str, ...]]
    gathered: Mapping[str, tuple[str, ...]]
    embedding: Mapping[str, tuple[str, ...]]
    activations: Mapping[str, tuple[str, ...]]
    token_axes: tuple[str, ...]  # that split positions: rows of a batch, and their columns
    batch_axes: tuple[str, ...]

    def ways(self, axes: Iterable[str]) -> int:
        """How many pieces these axes make."""
        return math.prod(self.sizes[axis] for axis in axes)

    def domains(self, axes: Iterable[str], num_domains: int) -> int:
        """How many slices or nodes a group of devices along `axes` lies in; the mesh fills them one after the other."""
        inside = math.prod(self.sizes.values()) // num_domains
        found, stride = 1, 1
        wanted = set(axes)
        for axis, size in reversed(list(self.sizes.items())):
            if axis in wanted:
                within = min(max(inside // stride, 1), size)
                found *= size // within
            stride *= size
        return found


class SplitWeight(NamedTuple):
    """One weight, or one kind of all layers' (stacked or not: `count` of them)."""

    keys: tuple[str, ...]
    letters: str  # without L
    shape: tuple[int, ...]
    count: int
    param_bytes: int  # of a number as stored
    compute_bytes: int  # of a number as products read it
    gradient_bytes: int  # of a number as devices sum it
    stored_ways: int
    used_ways: int  # pieces that products read
    gather_axes: tuple[str, ...]  # that are joined before it is used

    @property
    def numbers(self) -> int:
        """Of all layers, whole."""
        return math.prod(self.shape) * self.count

    @property
    def stored_numbers(self) -> int:
        """Of all layers, held by one device."""
        return self.numbers // self.stored_ways

    @property
    def stored_bytes(self) -> int:
        """Held by one device."""
        return self.stored_numbers * self.param_bytes

    @property
    def used_bytes(self) -> float:
        """As one device's products read it, all layers together."""
        return self.numbers / self.used_ways * self.compute_bytes

    @property
    def summed_bytes(self) -> float:
        """Of the gradient that one device has before devices sum theirs."""
        return self.numbers / self.used_ways * self.gradient_bytes


def plan_layout(mesh: MeshConfig, num_devices: int) -> Layout:
    """The layout of a run on devices that nobody has: for counting, not for computing.

    Raises ValueError where the axes do not fit the number.
    """
    sizes = mesh_sizes(mesh, num_devices)
    names = tuple(name for name, _ in mesh.axes)
    shape: Any = AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))
    return Layout(shape, mesh.strategy)


def split_of(layout: Layout) -> Split:
    """The numbers of a layout."""
    strategy = STRATEGIES[layout.strategy]
    roles = (strategy.weights, strategy.gathered, strategy.embedding, strategy.activations)
    weights, gathered, embedding, activations = (
        {letter: as_tuple(axes) for letter, axes in role.items()} for role in roles
    )
    sizes = {str(name): size for name, size in layout.mesh.shape.items()}
    token_axes = (*strategy.batch, *activations["S"])
    return Split(sizes, weights, gathered, embedding, activations, token_axes, strategy.batch)


@lru_cache
def split_weights(config: TransformerConfig, layout: Layout) -> tuple[SplitWeight, ...]:
    """Every weight; those of all layers as one each. Sizes need not be divisible: `param_shardings` checks that."""
    split, params, letters = split_of(layout), abstract_params(config), param_letters(config)
    if not config.scan_layers:
        first = min(params["layers"], default=None)
        layers = ({}, {}) if first is None else (params["layers"][first], letters["layers"][first])
        params, letters = (
            {**tree, "layers": layer} for tree, layer in zip((params, letters), layers, strict=True)
        )
    names = {_keys(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(letters)}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return tuple(
        _split_weight(_keys(path), names[_keys(path)], leaf, config, split) for path, leaf in leaves
    )


@lru_cache
def split_adapters(
    config: TransformerConfig, lora: LoraConfig, layout: Layout
) -> tuple[SplitWeight, ...]:
    """Both factors of every adapter, of all layers as one each; "A" stays whole, others are split as weights'."""
    stacked, split = replace(config, scan_layers=True), split_of(layout)
    shapes, letters = adapter_shapes(stacked, lora), adapter_letters(stacked, lora)
    found = []
    for path, of in jax.tree_util.tree_leaves_with_path(letters):
        shape = shapes
        for key in _keys(path):
            shape = shape[key]
        leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
        found.append(_split_weight(_keys(path), of, leaf, config, split))
    return tuple(found)


@lru_cache
def trained_layers(
    config: TransformerConfig, trainable: tuple[str, ...]
) -> Mapping[tuple[str, ...], int]:
    """By the keys of `split_weights`, how many of each are trained; ValueError for a regex that finds nothing."""
    names = find_weights(abstract_params(config), trainable, "train.trainable")
    found: Counter[tuple[str, ...]] = Counter()
    for name in names:
        keys = tuple(name.split("/"))
        if keys[0] != "layers":
            found[keys] += 1
        elif config.scan_layers:
            found[keys] += config.num_layers
        else:
            found["layers", *keys[2:]] += 1
    return found


def _split_weight(
    keys: tuple[str, ...], letters: str, leaf: Any, config: TransformerConfig, split: Split
) -> SplitWeight:
    named = [
        (name, size) for name, size in zip(letters.split(), leaf.shape, strict=True) if name != "L"
    ]
    embedding = keys[0] == "embed"
    stored = split.embedding if embedding else split.weights
    used = split.embedding if embedding else split.gathered
    axes = [axis for name, _ in named for axis in stored[name]]
    staying = [axis for name, _ in named for axis in used[name]]
    param_bytes = jnp.dtype(leaf.dtype).itemsize
    compute_bytes = jnp.dtype(config.compute_dtype).itemsize
    # rows of the embedding are summed in the weights' dtype, so that none of a frequent one's gradients is lost
    gradient_bytes = param_bytes if embedding else compute_bytes
    count = config.num_layers if keys[0] == "layers" else 1
    return SplitWeight(
        keys,
        " ".join(name for name, _ in named),
        tuple(size for _, size in named),
        count,
        param_bytes,
        compute_bytes,
        gradient_bytes,
        split.ways(axes),
        split.ways(staying),
        tuple(axis for axis in axes if axis not in staying),
    )


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(str(key.key) for key in path)
