"""Loads a released transformer, Meta's or Lumina-mGPT's, into the unstacked parameter tree."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (teaches numpy bfloat16, which safetensors needs)
import numpy as np
from safetensors import safe_open

from lumina_jax.config import TransformerConfig
from lumina_jax.convert.pth import read_pth
from lumina_jax.convert.tables import HF_IGNORED_PREFIXES, LAYER, META_IGNORED, OUTER, Form, Rule
from lumina_jax.model.weights import layer_name

Params = dict[str, Any]
Fetch = Callable[[Rule, str, str], np.ndarray]


def load_meta(folder: str | Path, dtype: str = "bfloat16") -> tuple[TransformerConfig, Params]:
    """Config and weights of Meta's layout: params.json, consolidate_params.json, consolidated*.pth.

    Shards are joined, q and k (weights and norms) reordered from adjacent rotary pairs to halves.
    Raises FileNotFoundError or ValueError naming the file and key that is missing, unknown or misshapen.
    """
    folder = Path(folder)
    config = meta_config(folder, dtype)
    paths = sorted(folder.glob("consolidated*.pth"))
    if len(paths) != config.qk_norm_shards:
        raise ValueError(
            f"{folder} has {len(paths)} consolidated*.pth files, its parameters say {config.qk_norm_shards}"
        )
    shards = [read_pth(path) for path in paths]
    for path, shard in zip(paths, shards, strict=True):
        known = {rule.meta_key.format(i=i) for _, i, rule in _rules(config)}
        _check_keys(path, shard.keys() - set(META_IGNORED), known)

    def fetch(rule: Rule, meta_key: str, hf_key: str) -> np.ndarray:
        return _join([np.asarray(shard[meta_key]) for shard in shards], rule)

    return config, _build(config, fetch, adjacent_pairs=True)


def load_hf(folder: str | Path, dtype: str = "bfloat16") -> tuple[TransformerConfig, Params]:
    """Config and weights of Lumina-mGPT's layout: config.json and *.safetensors.

    Raises FileNotFoundError or ValueError naming the file and key that is missing, unknown or misshapen.
    """
    folder = Path(folder)
    config = hf_config(folder, dtype)
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"no *.safetensors in {folder}")
    files = [safe_open(path, framework="numpy") for path in paths]
    owner = {key: file for file in files for key in file.keys()}
    found = {key for key in owner if not key.startswith(HF_IGNORED_PREFIXES)}
    _check_keys(folder, found, {rule.hf_key.format(i=i) for _, i, rule in _rules(config)})

    def fetch(rule: Rule, meta_key: str, hf_key: str) -> np.ndarray:
        return owner[hf_key].get_tensor(hf_key)

    return config, _build(config, fetch, adjacent_pairs=False)


def meta_config(folder: Path, dtype: str) -> TransformerConfig:
    """Sizes from Meta's two JSON files."""
    params = json.loads((folder / "params.json").read_text())
    merged = {**params, **params.get("model", {})}
    merged.update(json.loads((folder / "consolidate_params.json").read_text()))
    width, num_heads = merged["dim"], merged["n_heads"]
    mlp_width = int(int(8 * width / 3) * (merged.get("ffn_dim_multiplier") or 1.0))
    multiple = merged["multiple_of"]
    return TransformerConfig(
        num_layers=merged["n_layers"],
        width=width,
        num_heads=num_heads,
        num_kv_heads=merged.get("n_kv_heads") or num_heads,
        head_size=width // num_heads,
        mlp_width=-(-mlp_width // multiple) * multiple,
        vocab_size=merged["vocab_size"],
        norm_placement="swin" if merged["swin_norm"] else "pre",
        qk_norm_shards=merged["model_parallel_size"],
        norm_eps=merged["norm_eps"],
        rope_theta=merged["rope_theta"],
        param_dtype=dtype,
    )


def hf_config(folder: Path, dtype: str) -> TransformerConfig:
    """Sizes from Lumina-mGPT's config.json."""
    read = json.loads((folder / "config.json").read_text())
    return TransformerConfig(
        num_layers=read["num_hidden_layers"],
        width=read["hidden_size"],
        num_heads=read["num_attention_heads"],
        num_kv_heads=read["num_key_value_heads"],
        head_size=read["hidden_size"] // read["num_attention_heads"],
        mlp_width=read["intermediate_size"],
        vocab_size=read["vocab_size"],
        norm_placement="swin" if read["swin_norm"] else "pre",
        qk_norm_shards=read["model_parallel_size"],
        norm_eps=read["rms_norm_eps"],
        rope_theta=read["rope_theta"],
        dropout=read.get("dropout", 0.0),
        param_dtype=dtype,
    )


def _rules(config: TransformerConfig) -> Iterator[tuple[tuple[str, ...], int, Rule]]:
    """Path, layer number and rule of every weight."""
    for path, rule in OUTER.items():
        yield path, 0, rule
    for i in range(config.num_layers):
        for path, rule in LAYER.items():
            yield ("layers", layer_name(i), *path), i, rule


def _build(config: TransformerConfig, fetch: Fetch, adjacent_pairs: bool) -> Params:
    """The tree, one weight at a time."""
    params: Params = {}
    for path, i, rule in _rules(config):
        keys = rule.meta_key.format(i=i), rule.hf_key.format(i=i)
        stored = fetch(rule, *keys)
        if rule.rotary and adjacent_pairs:
            stored = _halves_from_pairs(stored, rule.form, config.head_size)
        try:
            leaf = _FORMS[rule.form](stored, config.head_size)
        except ValueError as error:
            raise ValueError(f"{keys[0]} has shape {stored.shape}: {error}") from error
        place = params
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = np.ascontiguousarray(leaf).astype(config.param_dtype)
    return params


_FORMS: dict[Form, Callable[[np.ndarray, int], np.ndarray]] = {
    "table": lambda w, h: w,
    "vector": lambda w, h: w,
    "heads_in": lambda w, h: w.reshape(-1, h, w.shape[1]).transpose(2, 0, 1),
    "heads_out": lambda w, h: w.T.reshape(-1, h, w.shape[0]),
    "matrix": lambda w, h: w.T,
    "head_rows": lambda w, h: w.reshape(-1, h),
}


def _halves_from_pairs(stored: np.ndarray, form: Form, head_size: int) -> np.ndarray:
    """Rows of each head reordered: even ones first, then odd ones."""
    order = np.concatenate([np.arange(0, head_size, 2), np.arange(1, head_size, 2)])
    if form == "head_rows":
        return stored[..., order]
    return stored.reshape(-1, head_size, stored.shape[1])[:, order].reshape(stored.shape)


def _join(shards: list[np.ndarray], rule: Rule) -> np.ndarray:
    """One array from Meta's model-parallel shards."""
    if rule.join == "stack":
        return np.stack(shards)
    if rule.join == "mean":
        return np.mean([shard.astype(np.float32) for shard in shards], axis=0).astype(
            shards[0].dtype
        )
    return np.concatenate(shards, axis=rule.join)


def _check_keys(path: Path, found: set[str], known: set[str]) -> None:
    """Every key known and none missing, or a ValueError with the first of each."""
    missing, unknown = sorted(known - found), sorted(found - known)
    if missing or unknown:
        raise ValueError(
            f"{path}: {len(missing)} weights missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}; "
            "its config describes another model"
        )
