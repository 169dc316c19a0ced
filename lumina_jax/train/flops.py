"""How much arithmetic a training step is, and how much a device could do: what `mfu` in the log divides.

Model FLOPs as in PaLM (arXiv 2204.02311, App. B), attention counted causally: what the mathematics asks for, not what
a program does. Neither padding, nor masked scores, nor what `remat` computes twice is counted.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from lumina_jax.chips import chip_of
from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import LoraConfig
from lumina_jax.model.lora import count_adapter_params
from lumina_jax.model.params import abstract_params, count_params


def train_flops(
    config: TransformerConfig, num_tokens: float, num_pairs: float, lora: LoraConfig | None = None
) -> float:
    """FLOPs of a forward and backward pass: 6 P num_tokens + 12 L N H num_pairs.

    P: all weights but the embedding table, which is only looked up; 2 FLOPs a weight forward, 4 backward. With `lora`
    4 P + 6 A, where A counts the adapters' weights: a frozen weight takes 2 backward, for the gradient of its inputs.
    num_pairs: (query, key) pairs that attention joins, S (S + 1) / 2 for one sequence of S; a pair takes 2 N H FLOPs
    for its score and 2 N H for its value in each of L layers, twice that backward. For one sequence the second term
    is 6 L N H S a token, half of the usual 12 L N H S, because of causality.
    """
    heads = config.num_layers * config.num_heads * config.head_size
    return _flops_per_token(config, lora) * num_tokens + 12.0 * heads * num_pairs


def batch_flops(
    config: TransformerConfig, batch: Mapping[str, np.ndarray], lora: LoraConfig | None = None
) -> float:
    """`train_flops` of a batch of "segment_ids" and "positions" [B,S], whose positions restart with every segment."""
    real = batch["segment_ids"] > 0
    num_pairs = ((batch["positions"] + 1) * real).sum()
    return train_flops(config, float(real.sum()), float(num_pairs), lora)


def peak_flops(devices: list[Any] | None = None, tflops: float = 0.0) -> float | None:
    """FLOP/s of all devices together in bfloat16, None where `chips` has no such; `tflops`: of one, if given."""
    devices = list(jax.devices() if devices is None else devices)
    chip = chip_of(devices[0])
    each = tflops * 1e12 or (chip.flops if chip else 0.0)
    return each * len(devices) if each else None


@lru_cache
def _flops_per_token(config: TransformerConfig, lora: LoraConfig | None) -> float:
    """Of the products with weights."""
    params = abstract_params(config)
    num_params = count_params(params) - count_params(params["embed"])
    if lora is None:
        return 6.0 * num_params
    return 4.0 * num_params + 6.0 * count_adapter_params(config, lora)
