"""Arithmetic and memory traffic of one training step, counted from a config and a layout: no compiler is asked.

Everything is of one optimiser step; FLOPs are of all devices together, bytes of one device. What devices send each
other is in `messages`.
"""

from typing import NamedTuple

import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import pick
from lumina_jax.experiment import LoraConfig
from lumina_jax.model.lora import count_adapter_params
from lumina_jax.model.params import abstract_params, count_params
from lumina_jax.plan.split import split_of, split_weights
from lumina_jax.sharding import Layout
from lumina_jax.train.flops import train_flops

FLOAT32 = 4  # bytes


class Step(NamedTuple):
    """What one optimiser step computes."""

    config: TransformerConfig
    rows: int  # B, over all devices and micro-batches
    columns: int  # S
    records_per_row: float = 1.0  # which do not see each other; pairs are counted as of equal ones
    filled: float = 1.0  # share of positions that are not padding
    accumulation: int = 1  # micro-batches
    logits_chunk: int = 0  # as LossConfig's: > 0 recomputes logits going back
    num_moments: int = 2  # of the optimiser
    average: bool = False  # of the weights is kept
    lora: LoraConfig | None = None  # trained alone

    @property
    def positions(self) -> int:
        """All, padding too."""
        return self.rows * self.columns

    @property
    def tokens(self) -> float:
        """Positions that are not padding."""
        return self.positions * self.filled


class Remat(NamedTuple):
    """What going back computes again: in forward passes of a layer."""

    products: float  # with weights
    attention: float


# By TransformerConfig.remat. "dots" keeps products with weights; those of attention have batch dimensions.
REMATS = {"none": Remat(0, 0), "full": Remat(1, 1), "dots": Remat(0, 1)}


class Sizes(NamedTuple):
    """How many numbers the weights have."""

    layer: int  # of one
    embedding: int
    head: int
    final_norm: int

    def total(self, num_layers: int) -> int:
        """Of the model."""
        return self.layer * num_layers + self.embedding + self.head + self.final_norm


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


def sizes(config: TransformerConfig) -> Sizes:
    """Weights of a model by where they are."""
    params = abstract_params(config)
    layers, rest = count_params(params["layers"]), {k: count_params(v) for k, v in params.items()}
    return Sizes(layers // config.num_layers, rest["embed"], rest["head"], rest["final_norm"])


def model_flops(step: Step) -> float:
    """What the mathematics asks for (`train.flops`): causal within records, no padding, nothing twice."""
    length = step.columns * step.filled / step.records_per_row
    num_pairs = step.tokens * (length + 1) / 2
    return train_flops(step.config, step.tokens, num_pairs, step.lora)


def hardware_flops(step: Step) -> float:
    """What the devices compute: padding too, pairs of whole causal rows, and what `remat` and the loss compute twice.

    Attention by a fused kernel, which skips the future but not other records of a row, and computes scores again going
    back: 4 N H a pair and layer forward, 10 N H back.
    """
    config, positions = step.config, float(step.positions)
    again = pick(REMATS, config.remat, "remat policy of costs.REMATS")
    heads = config.num_layers * config.num_heads * config.head_size
    num_pairs = step.rows * step.columns * (step.columns + 1) / 2
    products = train_flops(config, positions, 0, step.lora)
    recomputed = 2.0 * again.products * sizes(config).layer * config.num_layers * positions
    attention = heads * num_pairs * (14.0 + 4.0 * again.attention)
    logits = 2.0 * sizes(config).head * positions if step.logits_chunk else 0.0
    return products + recomputed + attention + logits


def traffic(step: Step, layout: Layout) -> Traffic:
    """An estimate: every product reads what it takes and writes what it gives once, what lies between is fused."""
    weights = split_weights(step.config, layout)
    again = pick(REMATS, step.config.remat, "remat policy of costs.REMATS")
    in_products = [w for w in weights if w.keys[0] != "embed"]
    stored = sum(w.stored_bytes for w in in_products)
    used = sum(w.used_bytes for w in in_products)
    tables = sum(w.used_bytes for w in weights if w.keys[0] == "embed" and w.gather_axes)
    read = step.accumulation * (2 * (stored + used) + (2 + again.products) * used + 2 * tables)
    adapters = count_adapter_params(step.config, step.lora) if step.lora else 0
    gradients = 2.0 * step.accumulation * (adapters * FLOAT32 if step.lora else used + tables)
    numbers = adapters or sum(w.stored_bytes // w.param_bytes for w in weights)
    state = FLOAT32 * numbers * (4 + 2 * step.num_moments + 2 * step.average)
    return Traffic(read, gradients, state, _activations(step, layout, again), _logits(step, layout))


def state_bytes(step: Step, layout: Layout) -> dict[str, int]:
    """What one device holds between steps: "weights", "moments" and "average"; of adapters with `lora`, unsplit."""
    weights = split_weights(step.config, layout)
    held = {"weights": sum(w.stored_bytes for w in weights)}
    numbers = sum(w.stored_bytes // w.param_bytes for w in weights)
    if step.lora:
        numbers = count_adapter_params(step.config, step.lora)
        held["adapters"] = FLOAT32 * numbers
    held["moments"] = FLOAT32 * numbers * step.num_moments
    return held | ({"average": FLOAT32 * numbers} if step.average else {})


def _activations(step: Step, layout: Layout, again: Remat) -> float:
    """Of all layers: forward, again, and twice that going back."""
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
    passes = 3.0 + again.products
    positions = step.positions / split.ways(split.token_axes)
    return config.num_layers * positions * elements * _itemsize(config.compute_dtype) * passes


def _logits(step: Step, layout: Layout) -> float:
    """Float32: written and read forward, again where recomputed; their gradient written once, read twice."""
    split = split_of(layout)
    passes = 7 if step.logits_chunk else 5
    rows = step.positions / split.ways(split.token_axes)
    return FLOAT32 * passes * rows * step.config.vocab_size / split.ways(split.activations["V"])


def _letter_sizes(config: TransformerConfig) -> dict[str, int]:
    return {
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_size,
        "F": config.mlp_width,
    }


def _itemsize(dtype: str) -> int:
    return jnp.dtype(dtype).itemsize
