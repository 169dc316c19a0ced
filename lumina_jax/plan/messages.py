"""What devices must send each other in one training step: the least that a strategy allows, for one device.

A group of n devices that lie in s slices (or nodes), n / s in each, receives of an array of `b` bytes that each ends up
with (all-gather) or starts with (reduce-scatter): b (n/s - 1) / (n/s) over the fast links of its slice, b (s - 1) / n
over the network between slices; together b (n - 1) / n. An all-reduce is both, one after the other.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import pick
from lumina_jax.model.lora import count_adapter_params
from lumina_jax.plan.costs import FLOAT32, REMATS, Step
from lumina_jax.plan.split import PRODUCTS, Split, SplitWeight, split_of, split_weights
from lumina_jax.sharding import Layout


class Message(NamedTuple):
    """All collectives of one kind, place and pass in one step."""

    kind: str  # "all-gather", "reduce-scatter" or "all-reduce"
    what: str  # "weights", "gradients", "activations", "keys and values"
    when: str  # "forward", "recomputation", "backward"
    where: str  # "layers": of all together; "embedding", "head"
    ways: int  # n, devices of a group
    fast_bytes: float  # received by one device over the links of its slice or node
    slow_bytes: float  # over the network between those

    @property
    def bytes(self) -> float:
        """Received by one device."""
        return self.fast_bytes + self.slow_bytes


class Network(NamedTuple):
    """What devices send messages over."""

    split: Split
    num_domains: int  # slices or GPU nodes

    def message(
        self, kind: str, what: str, when: str, where: str, axes: tuple[str, ...], size: float
    ) -> list[Message]:
        """One collective over `axes` of an array of `size` bytes, or none where a group is one device."""
        ways = self.split.ways(axes)
        if ways == 1:
            return []
        domains = self.split.domains(axes, self.num_domains)
        inside = ways // domains
        times = 2 if kind == "all-reduce" else 1
        fast, slow = size * (inside - 1) / inside, size * (domains - 1) / ways
        return [Message(kind, what, when, where, ways, times * fast, times * slow)]


def messages(step: Step, layout: Layout, num_domains: int = 1) -> list[Message]:
    """Every kind of collective of the step; `num_domains`: slices or nodes that the devices lie in.

    Weights are gathered in the compute dtype, once forward and once going back, of every micro-batch; their gradients
    are summed in it, the embedding's in the weights' dtype. K and V are gathered where S is split and T is not. A
    gradient's sum over axes that do not split its weight is an all-reduce.
    """
    network = Network(split_of(layout), num_domains)
    found: list[Message] = []
    for weight in split_weights(step.config, layout):
        found += _of_weight(weight, step, network)
    found += _of_residual_stream(step, network) + _of_keys_and_values(step, network)
    if step.lora:
        size = float(FLOAT32 * count_adapter_params(step.config, step.lora))
        axes = network.split.token_axes
        found += network.message("all-reduce", "gradients", "backward", "layers", axes, size)
    return _merged(found)


def per_layer(found: Iterable[Message], config: TransformerConfig) -> list[Message]:
    """Those of layers, of one layer: what a loop over layers does each time round, both passes together."""
    scale = 1 / config.num_layers
    return [
        m._replace(fast_bytes=m.fast_bytes * scale, slow_bytes=m.slow_bytes * scale)
        for m in found
        if m.where == "layers"
    ]


def _of_weight(weight: SplitWeight, step: Step, network: Network) -> list[Message]:
    """Its gathers, and the sum of its gradient. The embedding is not read going back."""
    where = {"layers": "layers", "embed": "embedding"}.get(weight.keys[0], "head")
    times, split, axes = step.accumulation, network.split, weight.gather_axes
    found = []
    for when in ("forward",) if where == "embedding" else ("forward", "backward"):
        size = weight.used_bytes * times
        found += network.message("all-gather", "weights", when, where, axes, size)
    if step.lora:
        return found
    scattered = tuple(axis for axis in axes if axis in split.token_axes)
    summed = tuple(axis for axis in split.token_axes if axis not in scattered)
    size = weight.summed_bytes * times
    for kind, over, of in (
        ("reduce-scatter", scattered, size),
        ("all-reduce", summed, size / split.ways(axes)),
    ):
        found += network.message(kind, "gradients", "backward", where, over, of)
    return found


def _of_residual_stream(step: Step, network: Network) -> list[Message]:
    """All-reduces of [B, S, D]: of products that sum over a split letter, and of the gradients of what they read.

    What a layer gives out last is computed again only for a norm after it.
    """
    config, split = step.config, network.split
    again = pick(REMATS, config.remat, "remat policy of costs.REMATS").products > 0
    stream = _positions(step, split) * config.width * jnp.dtype(config.compute_dtype).itemsize
    found = []
    for product in PRODUCTS:
        passes = [("forward", product.summed), ("backward", product.given)]
        if again and (product.weights != ("down",) or config.norm_placement == "swin"):
            passes.append(("recomputation", product.summed))
        for when, letters in passes:
            size, axes = stream * config.num_layers, _used(split, letters)
            found += network.message("all-reduce", "activations", when, "layers", axes, size)
    table, head = split.lookup.get("D", ()), _used(split, "V")
    found += network.message("all-gather", "activations", "forward", "embedding", table, stream)
    return found + network.message("all-reduce", "activations", "backward", "head", head, stream)


def _of_keys_and_values(step: Step, network: Network) -> list[Message]:
    """Where queries are split by position and see keys of other devices."""
    config, split = step.config, network.split
    again = pick(REMATS, config.remat, "remat policy of costs.REMATS").attention > 0
    whole = split.activations["T"]
    axes = tuple(axis for axis in split.activations["S"] if axis not in whole)
    numbers = config.num_kv_heads * config.head_size / split.ways(_used(split, "K"))
    rows = step.rows / split.ways(split.batch_axes)
    size = 2 * config.num_layers * rows * step.columns * numbers
    size *= jnp.dtype(config.compute_dtype).itemsize
    found = []
    for when in ("forward", "recomputation") if again else ("forward",):
        found += network.message("all-gather", "keys and values", when, "layers", axes, size)
    return found + network.message(
        "reduce-scatter", "keys and values", "backward", "layers", axes, size
    )


def _positions(step: Step, split: Split) -> float:
    """Of one device."""
    return step.positions / split.ways(split.token_axes)


def _used(split: Split, letters: str) -> tuple[str, ...]:
    """Mesh axes that split these letters of weights and of activations alike."""
    return tuple(
        axis
        for letter in letters.split()
        for axis in split.weights[letter]
        if axis in split.activations[letter]
    )


def _merged(found: list[Message]) -> list[Message]:
    """Those alike but for their bytes as one."""
    total: dict[tuple, Message] = {}
    for new in found:
        old = total.setdefault(new[:5], new)
        if old is not new:
            fast, slow = old.fast_bytes + new.fast_bytes, old.slow_bytes + new.slow_bytes
            total[new[:5]] = old._replace(fast_bytes=fast, slow_bytes=slow)
    return list(total.values())
