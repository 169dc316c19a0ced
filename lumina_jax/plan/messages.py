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


def messages(step: Step, layout: Layout, num_domains: int = 1) -> list[Message]:
    """Every kind of collective of the step; `num_domains`: slices or nodes that the devices lie in.

    Weights are gathered in the compute dtype, once forward and once going back, of every micro-batch; their gradients
    are summed in it. K and V are gathered where S is split and T is not. A gradient's sum over axes that do not split
    its weight is an all-reduce.
    """
    split = split_of(layout)
    found: list[Message] = []
    for weight in split_weights(step.config, layout):
        found += _of_weight(weight, step, split, num_domains)
    found += _of_activations(step, split, num_domains)
    if step.lora:
        adapters = float(FLOAT32 * count_adapter_params(step.config, step.lora))
        found += _message(
            "all-reduce",
            "gradients",
            "backward",
            "layers",
            split.token_axes,
            adapters,
            split,
            num_domains,
        )
    return _merged(found)


def per_layer(found: Iterable[Message], config: TransformerConfig) -> list[Message]:
    """Those of layers, of one layer: what a loop over layers does each time round, both passes together."""
    scale = 1 / config.num_layers
    return [
        m._replace(fast_bytes=m.fast_bytes * scale, slow_bytes=m.slow_bytes * scale)
        for m in found
        if m.where == "layers"
    ]


def _of_weight(weight: SplitWeight, step: Step, split: Split, num_domains: int) -> list[Message]:
    """Its gathers, and the sum of its gradient."""
    where = {"layers": "layers", "embed": "embedding"}.get(weight.keys[0], "head")
    times, used = step.accumulation, weight.used_bytes
    found = []
    for when in ("forward", "backward"):
        if when == "forward" or where != "embedding":
            size = used * times
            found += _message(
                "all-gather", "weights", when, where, weight.gather_axes, size, split, num_domains
            )
    if step.lora:
        return found
    scattered = tuple(axis for axis in weight.gather_axes if axis in split.token_axes)
    summed = tuple(axis for axis in split.token_axes if axis not in scattered)
    rest = (
        ("reduce-scatter", scattered, used * times),
        ("all-reduce", summed, used * times / split.ways(weight.gather_axes)),
    )
    for kind, axes, size in rest:
        found += _message(kind, "gradients", "backward", where, axes, size, split, num_domains)
    return found


def _of_activations(step: Step, split: Split, num_domains: int) -> list[Message]:
    """All-reduces of products that sum over a split letter, and gathered keys and values."""
    config = step.config
    again = pick(REMATS, config.remat, "remat policy of costs.REMATS")
    width = jnp.dtype(config.compute_dtype).itemsize
    positions = step.positions / split.ways(split.token_axes)
    stream, layers = positions * config.width * width, config.num_layers
    found = []

    def add(
        kind: str, what: str, when: str, where: str, axes: tuple[str, ...], size: float
    ) -> None:
        found.extend(_message(kind, what, when, where, axes, size, split, num_domains))

    for names, summed in PRODUCTS:
        letters = {"q": "N", "o": "D", "gate": "F", "down": "D"}[names[0]]
        split_in = _used(split, summed)
        split_out = _used(split, letters)
        add("all-reduce", "activations", "forward", "layers", split_in, stream * layers)
        # what a layer gives out last is not needed to go back, but for a norm after it
        if again.products and (names[0] != "down" or config.norm_placement == "swin"):
            add("all-reduce", "activations", "recomputation", "layers", split_in, stream * layers)
        add("all-reduce", "activations", "backward", "layers", split_out, stream * layers)
    embedded = split.lookup.get("D", ())
    add("all-gather", "activations", "forward", "embedding", embedded, stream)
    add("all-reduce", "activations", "backward", "head", _used(split, "V"), stream)

    joined = tuple(a for a in split.activations["S"] if a not in split.activations["T"])
    kept = split.ways(_used(split, "K"))
    rows = step.rows / split.ways(split.batch_axes)
    both = 2 * rows * step.columns * config.num_kv_heads * config.head_size / kept * width * layers
    add("all-gather", "keys and values", "forward", "layers", joined, both)
    if again.attention:
        add("all-gather", "keys and values", "recomputation", "layers", joined, both)
    add("reduce-scatter", "keys and values", "backward", "layers", joined, both)
    return found


def _used(split: Split, letters: str) -> tuple[str, ...]:
    """Mesh axes that split these letters of weights and of activations alike."""
    return tuple(
        axis
        for letter in letters.split()
        for axis in split.weights[letter]
        if axis in split.activations[letter]
    )


def _message(
    kind: str,
    what: str,
    when: str,
    where: str,
    axes: tuple[str, ...],
    size: float,
    split: Split,
    num_domains: int,
) -> list[Message]:
    """One collective over `axes` of an array of `size` bytes, or none where a group is one device."""
    ways = split.ways(axes)
    if ways == 1:
        return []
    domains = split.domains(axes, num_domains)
    inside = ways // domains
    times = 2 if kind == "all-reduce" else 1
    fast, slow = size * (inside - 1) / inside, size * (domains - 1) / ways
    return [Message(kind, what, when, where, ways, times * fast, times * slow)]


def _merged(found: list[Message]) -> list[Message]:
    """Those alike but for their bytes as one."""
    total: dict[tuple, Message] = {}
    for message in found:
        key = message[:5]
        old = total.get(key)
        if old is not None:
            message = message._replace(
                fast_bytes=message.fast_bytes + old.fast_bytes,
                slow_bytes=message.slow_bytes + old.slow_bytes,
            )
        total[key] = message
    return list(total.values())
