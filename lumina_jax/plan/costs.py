"""Arithmetic and memory traffic of one training step, counted from a config and a layout: no compiler is asked.

Everything is of one optimiser step; FLOPs are of all devices together, bytes of one device. What devices send each
other is in `messages`.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import pick
from lumina_jax.experiment import MeshConfig
from lumina_jax.model.lora import count_adapter_params
from lumina_jax.model.params import abstract_params, count_params
from lumina_jax.plan.split import plan_layout, split_of, split_weights
from lumina_jax.plan.step import FLOAT32, Step
from lumina_jax.sharding import Layout, letter_ways

ONE = plan_layout(MeshConfig("data", (("data", 1),)), 1)  # device, which holds everything


class Again(NamedTuple):
    """What of a layer is computed again going back."""

    weights: frozenset[str]  # names of those whose products are
    attention: bool


def _again(weights: str, attention: bool) -> Again:
    return Again(frozenset(weights.split()), attention)


# By TransformerConfig.remat. "dots" keeps products with weights; those of attention have batch dimensions.
REMATS = {
    "none": _again("", False),
    "full": _again("q k v o gate up down", True),
    "dots": _again("", True),
    "save_qkv": _again("o gate up down", True),
    "save_attention": _again("q k v o gate up down", False),
    "save_out_proj": _again("q k v gate up down", True),
    "minimal": _again("", False),
    "offload_qkv": _again("o gate up down", True),
    "offload_projections": _again("gate up down", True),
}


class Sizes(NamedTuple):
    """How many numbers the weights have."""

    layer: int  # of one
    embedding: int
    head: int
    final_norm: int

    def total(self, num_layers: int) -> int:
        """Of the model."""
        return self.layer * num_layers + self.embedding + self.head + self.final_norm


class Flops(NamedTuple):
    """Of all devices together."""

    products: float  # of layers, with weights: forward, and again going back
    gradients: float  # products of layers for the gradients of what they read and of their weights
    attention: float
    logits: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


class Traffic(NamedTuple):
    """Bytes of main memory that one device reads and writes."""

    weights: float  # cast, gathered and read by products
    gradients: float
    optimizer: float  # the only part that no product can hide
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


@lru_cache
def sizes(config: TransformerConfig) -> Sizes:
    """Weights of a model by where they are."""
    params = abstract_params(config)
    layers, rest = count_params(params["layers"]), {k: count_params(v) for k, v in params.items()}
    return Sizes(layers // config.num_layers, rest["embed"], rest["head"], rest["final_norm"])


def model_flops(step: Step) -> float:
    """What the mathematics asks for: causal within records, no padding, nothing twice.

    As `train.flops` counts it, but that what is not trained (`train.trainable`) takes no gradient here.
    """
    length = step.columns * step.filled / step.records_per_row
    num_pairs = step.tokens * (length + 1) / 2
    forward, gradients, logits = _products(step)
    heads = step.config.num_layers * step.config.num_heads * step.config.head_size
    attention = heads * num_pairs * (12.0 if step.goes_back() else 4.0)
    return (forward + gradients + logits) * step.tokens + attention


def recomputed(config: TransformerConfig) -> Again:
    """What `config.remat` computes again; what a layer gives out last only for a norm after it."""
    found = pick(REMATS, config.remat, "remat policy of costs.REMATS")
    needed = found.weights if config.norm_placement == "swin" else found.weights - {"down"}
    return found._replace(weights=needed)


def hardware_flops(step: Step) -> Flops:
    """What the devices compute: padding too, pairs of whole causal rows, and what `remat` and the loss compute twice.

    Attention by a fused kernel, which skips the future but not other records of a row, and computes scores again going
    back: 4 N H a pair and layer forward, 10 N H back.
    """
    config, positions, again = step.config, float(step.positions), recomputed(step.config)
    heads = config.num_layers * config.num_heads * config.head_size
    num_pairs = step.rows * step.columns * (step.columns + 1) / 2
    forward, gradients, logits = (numbers * positions for numbers in _products(step))
    if step.logits_chunk:
        logits += 2.0 * sizes(config).head * positions
    if not step.goes_back():
        return Flops(forward, gradients, 4.0 * heads * num_pairs, logits)
    forward += 2.0 * positions * _numbers(config, again.weights) * config.num_layers
    attention = heads * num_pairs * (18.0 if again.attention else 14.0)
    return Flops(forward, gradients, attention, logits)


def _products(step: Step) -> tuple[float, float, float]:
    """FLOPs a position of layers' weights forward, of their gradients, and of logits both ways.

    2 a number forward, 2 for the gradient of what it meets where that is wanted, 2 for its own where it is trained.
    """
    size = sizes(step.config)
    numbers = float(size.total(step.config.num_layers) - size.embedding - size.head)
    adapters = count_adapter_params(step.config, step.lora) if step.lora else 0
    own = () if step.lora else step.trained(ONE)
    head = sum(weight.numbers for weight in own if weight.keys[0] == "head")
    rest = sum(weight.numbers for weight in own if weight.keys[0] not in ("embed", "head"))
    back = numbers if step.goes_back() else 0.0
    logits = size.head * (4.0 if step.goes_back(("head",)) else 2.0) + 2.0 * head
    return 2 * (numbers + adapters), 2 * (back + rest) + 4 * adapters, logits


def traffic(step: Step, layout: Layout) -> Traffic:
    """An estimate: every product reads what it takes and writes what it gives once, what lies between is fused."""
    weights, again = split_weights(step.config, layout), recomputed(step.config)
    in_products = [w for w in weights if w.keys[0] != "embed"]
    stored = sum(w.stored_bytes for w in in_products)
    used = sum(w.used_bytes for w in in_products)
    share = _numbers(step.config, again.weights) / sizes(step.config).layer
    # cast and gathered forward and going back; read forward, again, and for the gradient of what they were given
    back = step.goes_back()
    casts, reads, passes = (2, 2 + share, 3.0 + share) if back else (1, 1.0, 1.0)
    moved = step.accumulation * (casts * (stored + used) + reads * used)
    trained = step.trained(layout)
    gradients = 2.0 * step.accumulation * sum(weight.summed_bytes for weight in trained)
    numbers = sum(weight.stored_numbers for weight in trained)
    # weights and moments read and written, gradients read for their norm and for the update
    state = numbers * (FLOAT32 * (4 + 2 * step.average) + 2 * step.moment_bytes)
    activations = _activations(step, layout, passes)
    return Traffic(moved, gradients, state, activations, _logits(step, layout))


def mask_bytes(step: Step, layout: Layout) -> float:
    """Of the masks that cuDNN's attention reads on one device, and XLA's does not: 16 bits a pair of positions.

    Packed rows have one, [B, 1, S, T], and so have rows whose sequences are split; every pass of every layer reads it
    once, the part that is not in the future where a sequence is whole. It is written once a step.
    """
    ways = letter_ways("S", layout)
    if not step.packed and ways == 1:
        return 0.0
    rows = step.rows / split_of(layout).ways(split_of(layout).batch_axes)
    written = 2.0 * rows * step.columns * step.columns / ways
    read = written if ways > 1 else written * (step.columns + 1) / (2 * step.columns)
    passes = 1 + step.goes_back() * (1 + recomputed(step.config).attention)
    return written + read * passes * step.config.num_layers


def state_bytes(step: Step, layout: Layout) -> dict[str, int]:
    """What one device holds between steps: "weights", "adapters", and of what is trained "moments" and "average"."""
    held = {"weights": sum(w.stored_bytes for w in split_weights(step.config, layout))}
    numbers = sum(weight.stored_numbers for weight in step.trained(layout))
    if step.lora:
        held["adapters"] = FLOAT32 * numbers
    held["moments"] = step.moment_bytes * numbers
    return held | ({"average": FLOAT32 * numbers} if step.average else {})


def _activations(step: Step, layout: Layout, passes: float) -> float:
    """Of all layers; a pass is a layer forward, of which going back is two."""
    config, split = step.config, split_of(layout)
    local = {
        name: size / split.ways(split.activations[name])
        for name, size in _letter_sizes(config).items()
    }
    query, keys = local["N"] * local["H"], local["K"] * local["H"]
    elements = 10.0 * config.width  # two norms and two sums: reads and writes of [B, S, D]
    elements += config.width + query + 2 * keys  # q, k, v
    elements += 2 * query + 2 * keys  # attention
    elements += query + config.width  # o
    elements += config.width + 2 * local["F"] + 3 * local["F"] + local["F"] + config.width  # SwiGLU
    positions = step.positions / split.ways(split.token_axes)
    return config.num_layers * positions * elements * _itemsize(config.compute_dtype) * passes


def _logits(step: Step, layout: Layout) -> float:
    """Float32: written and read forward, again where recomputed; their gradient written once, read twice."""
    split = split_of(layout)
    passes = 7 if step.logits_chunk else 5
    rows = step.positions / split.ways(split.token_axes)
    return FLOAT32 * passes * rows * step.config.vocab_size / split.ways(split.activations["V"])


def _numbers(config: TransformerConfig, names: Iterable[str]) -> int:
    """Of the weights of these names of one layer."""
    attention = config.width * config.head_size
    mlp = config.width * config.mlp_width
    of = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
    of |= {"o": config.num_heads}
    return sum(of[name] * attention if name in of else mlp for name in names)


def _letter_sizes(config: TransformerConfig) -> dict[str, int]:
    return {
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_size,
        "F": config.mlp_width,
    }


def _itemsize(dtype: str) -> int:
    return jnp.dtype(dtype).itemsize
