"""Adapters as files of PEFT (huggingface/peft): keys and shapes as transformers has a Chameleon's weights."""

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lumina_jax.checkpoint import on_first_process, write_json
from lumina_jax.config import TransformerConfig
from lumina_jax.convert.forms import from_stored, to_stored
from lumina_jax.convert.safetensors_file import open_folder
from lumina_jax.convert.tables import LAYER
from lumina_jax.convert.weights import Leaf, Weights, stamp_of
from lumina_jax.convert.write_tensors import write_safetensors
from lumina_jax.experiment import LORA_TARGETS, LoraConfig
from lumina_jax.model.lora import adapter_shapes
from lumina_jax.model.params import Params, unstack_layers
from lumina_jax.paths import as_path, make_folder, write_bytes

ADAPTER = "adapter"  # the folder of a run
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# transformers' names of our matrices: {"q": "q_proj", …}
PEFT_TARGETS = {name: LAYER[(name,)].hf_key.split(".")[-2] for name in LORA_TARGETS}
# What PEFT can add to an adapter and this project does not read.
PLAIN: dict[str, tuple] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False, None),
}


def write_adapter(
    folder: str | Path, adapters: Params, config: TransformerConfig, lora: LoraConfig
) -> None:
    """Write `adapters` as adapter_config.json and adapter_model.safetensors; every process of a cluster calls it.

    `PeftModel.from_pretrained` puts them into the base that `python -m lumina_jax.convert … --to transformers` writes.
    """
    folder, found = as_path(folder), _on_this_host(adapters)
    found = unstack_layers(found) if config.scan_layers else found
    tensors = {
        key: np.ascontiguousarray(to_stored("matrix", _flat(factor, array)))
        for key, layer, name, factor in _keys(config, lora)
        for array in (np.asarray(found["layers"][layer][name][factor]),)
    }
    content = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [PEFT_TARGETS[name] for name in lora.targets],
        "inference_mode": True,
        **{name: values[0] for name, values in PLAIN.items()},
    }

    def write() -> None:
        make_folder(folder)
        with tempfile.TemporaryDirectory() as local:
            file = Path(local) / WEIGHTS
            shapes = {key: (array.shape, array.dtype) for key, array in tensors.items()}
            write_safetensors(file, shapes, tensors.__getitem__)
            write_bytes(folder / WEIGHTS, file.read_bytes())
            write_json(folder / CONFIG, content)  # last: a folder that has it is complete

    on_first_process(write)


def read_adapter(folder: str | Path, config: TransformerConfig) -> tuple[LoraConfig, Params]:
    """The inverse of `write_adapter`, layers apart, float32; adapters of PEFT's own making too.

    Raises FileNotFoundError, or ValueError of one line for what no adapter of ours is: DoRA, biases, a rank of its own
    for some matrices, other matrices than LORA_TARGETS, or another model's shapes.
    """
    folder = as_path(folder)
    lora = _read_config(folder)
    stored, shapes = open_folder(folder), adapter_shapes(replace(config, scan_layers=False), lora)
    wanted = {key: (layer, name, factor) for key, layer, name, factor in _keys(config, lora)}
    if wanted.keys() != stored.keys():
        odd = sorted(wanted.keys() ^ stored.keys())
        what = "misses" if odd[0] in wanted else "has, unknown to us,"
        raise ValueError(
            f"{folder / WEIGHTS} {what} {odd[0]} ({len(odd)} such keys): want all {config.num_layers} layers"
        )
    layers: Params = {}
    for key, (layer, name, factor) in wanted.items():
        shape, array = shapes["layers"][layer][name][factor], np.asarray(stored[key].read())
        flat = _flat(factor, np.empty(shape, np.bool_)).shape
        if array.shape != flat[::-1]:
            raise ValueError(
                f"{folder / WEIGHTS}: {key} is {array.shape}, want {flat[::-1]}: an adapter of another model"
            )
        ours = from_stored("matrix", array.astype(np.float32), shape)
        layers.setdefault(layer, {}).setdefault(name, {})[factor] = ours
    return lora, {"layers": layers}


def with_adapter(weights: Weights, folder: str | Path) -> Weights:
    """`weights` with the adapter in `folder` merged into its matrices, summed in float32, when they are read."""
    lora, adapters = read_adapter(folder, weights.config.transformer)
    leaves = dict(weights.leaves)
    for layer, pairs in adapters["layers"].items():
        for name, pair in pairs.items():
            key = f"transformer/layers/{layer}/{name}"
            leaves[key] = _merged(leaves[key], pair["a"], pair["b"], lora.alpha / lora.rank)
    line = f"adapter: {folder}, rank {lora.rank}, on {', '.join(lora.targets)}"
    files = [as_path(folder) / name for name in (CONFIG, WEIGHTS)]
    stamp = f"{weights.stamp}-{stamp_of(files)}"
    return replace(weights, leaves=leaves, findings=(*weights.findings, line), stamp=stamp)


def _merged(leaf: Leaf, a: np.ndarray, b: np.ndarray, scale: float) -> Leaf:
    def read() -> np.ndarray:
        base = leaf.read()
        return (base.astype(np.float32) + scale * np.tensordot(a, b, 1)).astype(base.dtype)

    return replace(leaf, read=read)


def _keys(config: TransformerConfig, lora: LoraConfig) -> Iterator[tuple[str, str, str, str]]:
    """(PEFT's key, our layer, matrix, factor) of every array."""
    for index in range(config.num_layers):
        for name in lora.targets:
            module = LAYER[(name,)].hf_key.format(i=index).removesuffix(".weight")
            for factor in ("a", "b"):
                yield f"{PREFIX}{module}.lora_{factor.upper()}.weight", f"{index:02d}", name, factor


def _flat(factor: str, array: np.ndarray) -> np.ndarray:
    """A factor as a matrix: [inputs, A] or [A, outputs]."""
    return array.reshape(-1, array.shape[-1]) if factor == "a" else array.reshape(len(array), -1)


def _read_config(folder: Path) -> LoraConfig:
    try:
        content = json.loads((folder / CONFIG).read_text())
        names = {theirs: ours for ours, theirs in PEFT_TARGETS.items()}
        targets = content["target_modules"]
        odd = [name for name, values in PLAIN.items() if content.get(name) not in values]
        if content.get("peft_type") != "LORA" or odd:
            what = odd[0] if odd else "peft_type"
            raise ValueError(
                f"{folder / CONFIG}: {what} {content.get(what)!r}: only plain LoRA is read, without DoRA, biases, or "
                "ranks of their own"
            )
        if not isinstance(targets, list) or not set(targets) <= set(names):
            raise ValueError(
                f"{folder / CONFIG}: target_modules {targets}: want some of {', '.join(names)}"
            )
        rank, alpha = int(content["r"]), float(content["lora_alpha"])
        alpha *= (
            math.sqrt(rank) if content.get("use_rslora") else 1.0
        )  # its scale is alpha / sqrt(rank)
        ordered = tuple(name for name in LORA_TARGETS if PEFT_TARGETS[name] in targets)
        return LoraConfig(rank, alpha, ordered, float(content.get("lora_dropout") or 0.0))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG}: not a PEFT adapter's config ({error!r})") from error


def _on_this_host(tree: Any) -> Any:
    """The whole tree in this process's memory, wherever its shards lie."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)
