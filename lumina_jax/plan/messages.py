"""What devices must send each other in one training step: the least that a strategy allows, for one device.

A group of n devices that lie in s slices (or nodes), n / s in each, receives of an array of `b` bytes that each ends up
with (all-gather) or starts with (reduce-scatter): b (n/s - 1) / (n/s) over the fast links of its slice, b (s - 1) / n
over the network between slices; together b (n - 1) / n. An all-reduce is both, one after the other.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.plan.costs import recomputed
from lumina_jax.plan.split import PRODUCTS, Split, SplitWeight, split_of, split_weights
from lumina_jax.plan.step import Step
from lumina_jax.sharding import Layout


class Message(NamedTuple):
    """All collectives of one kind, place and pass in one step."""

    kind: str  # "all-gather", "reduce-scatter", "all-reduce" or "all-to-all"
    what: str  # "weights", "gradients", "activations", "keys and values"
    when: str  # "forward", "recomputation", "backward"
    where: str  # "layers": of all together; "embedding", "head"
    ways: int  # n, devices of a group
    domains: int  # s, slices or nodes that the group lies in
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
        return [Message(kind, what, when, where, ways, domains, times * fast, times * slow)]


def messages(step: Step, layout: Layout, num_domains: int = 1) -> list[Message]:
    """Every kind of collective of the step; `num_domains`: slices or nodes that the devices lie in.

    Weights are gathered in the compute dtype, once forward and once going back, of every micro-batch; their gradients
    are summed in it, the embedding's in the weights' dtype. K and V are gathered where S is split and T is not. A
    gradient's sum over axes that do not split its weight is an all-reduce. Adapters are weights like others. Of ids,
    losses and norms nothing is counted, nor what goes back to where nothing is trained.
    """
    network = Network(split_of(layout), num_domains)
    found: list[Message] = []
    adapters = step.trained(layout) if step.lora else ()
    for weight in (*split_weights(step.config, layout), *adapters):
        found += _gathers_of(weight, step, network)
    for weight in step.trained(layout):
        found += _gradient_sums_of(weight, step, network)
    found += _of_residual_stream(step, network) + _of_keys_and_values(step, network)
    return _merged([message for message in found if _happens(message, step)])


def per_layer(found: Iterable[Message], config: TransformerConfig) -> list[Message]:
    """Those of layers, of one layer: what a loop over layers does each time round, both passes together."""
    scale = 1 / config.num_layers
    return [
        m._replace(fast_bytes=m.fast_bytes * scale, slow_bytes=m.slow_bytes * scale)
        for m in found
        if m.where == "layers"
    ]


def _where(weight: SplitWeight) -> str:
    return {"layers": "layers", "embed": "embedding"}.get(weight.keys[0], "head")


def _happens(message: Message, step: Step) -> bool:
    """Whether a gradient is wanted there, of what goes back."""
    if message.when == "forward" or message.what == "gradients":
        return True
    if message.where == "embedding":
        return step.lora is None and step.count(("embed", "table")) > 0
    return step.goes_back((message.where,))


def _gathers_of(weight: SplitWeight, step: Step, network: Network) -> list[Message]:
    size, axes = weight.used_bytes * step.accumulation, weight.gather_axes
    return [
        message
        for when in ("forward", "backward")
        for message in network.message("all-gather", "weights", when, _where(weight), axes, size)
    ]


def _gradient_sums_of(weight: SplitWeight, step: Step, network: Network) -> list[Message]:
    """Over devices with other tokens; the embedding's columns see all tokens: of copies alone."""
    where, split, axes = _where(weight), network.split, weight.gather_axes
    scattered = tuple(axis for axis in axes if axis in split.token_axes)
    elsewhere = split.embedding["D"] if where == "embedding" else scattered
    summed = tuple(axis for axis in split.token_axes if axis not in elsewhere)
    size = weight.summed_bytes * step.accumulation
    found = network.message("reduce-scatter", "gradients", "backward", where, scattered, size)
    size /= split.ways(axes)
    return found + network.message("all-reduce", "gradients", "backward", where, summed, size)


def _of_residual_stream(step: Step, network: Network) -> list[Message]:
    """All-reduces of [B, S, D]: of products that sum over a split letter, and of the gradients of what they read.

    And the exchange of looked up columns: each device has some of all tokens', and needs all of its own tokens'.
    """
    config, split = step.config, network.split
    again = recomputed(config).weights
    stream = _positions(step, split) * config.width * jnp.dtype(config.compute_dtype).itemsize
    found = []
    for product in PRODUCTS:
        passes = [("forward", product.summed), ("backward", product.given)]
        if again.issuperset(product.weights):
            passes.append(("recomputation", product.summed))
        for when, letters in passes:
            size, axes = stream * config.num_layers, _used(split, letters)
            found += network.message("all-reduce", "activations", when, "layers", axes, size)
    head, columns = _used(split, "V"), split.embedding["D"]
    found += network.message("all-reduce", "activations", "backward", "head", head, stream)
    found += network.message("all-to-all", "activations", "forward", "embedding", columns, stream)
    # going back every device needs its columns of all tokens; those of axes that split no tokens it has
    apart = tuple(axis for axis in columns if axis in split.token_axes)
    back = stream * split.ways(apart) / split.ways(columns)
    return found + network.message(
        "all-to-all", "activations", "backward", "embedding", apart, back
    )


def _of_keys_and_values(step: Step, network: Network) -> list[Message]:
    """Where queries are split by position and see keys of other devices."""
    config, split = step.config, network.split
    again = recomputed(config).attention
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
        for axis in split.gathered[letter]
        if axis in split.activations[letter]
    )


def _merged(found: list[Message]) -> list[Message]:
    """Those alike but for their bytes as one."""
    total: dict[tuple, Message] = {}
    for new in found:
        old = total.setdefault(new[:6], new)
        if old is not new:
            fast, slow = old.fast_bytes + new.fast_bytes, old.slow_bytes + new.slow_bytes
            total[new[:6]] = old._replace(fast_bytes=fast, slow_bytes=slow)
    return list(total.values())
