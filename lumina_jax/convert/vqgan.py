"""Loads the released VQGAN (vqgan.yaml, vqgan.ckpt of Chameleon's tokenizer) into our tree, and the way back.

The tree mirrors the release, so one rule covers every leaf: `encoder.down.0.block.1.conv1.weight` [O, I, H, W] is
`encoder/down_0/block_1/conv1/kernel` [H, W, I, O] here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from lumina_jax.config import VQGANConfig
from lumina_jax.convert.pth import read_pth
from lumina_jax.vqgan.codec import abstract_vqgan

IGNORED_PREFIX = "loss."  # the discriminator and LPIPS of the original's training
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "embedding": "embedding.weight"}
KERNEL_AXES = (2, 3, 1, 0)  # OIHW -> HWIO
FIXED = {
    "attn_resolutions": [],
    "double_z": False,
    "in_channels": 3,
    "out_ch": 3,
}  # no others are built


def load_vqgan(folder: str | Path) -> tuple[VQGANConfig, dict[str, Any]]:
    """Config and float32 parameters of a folder with vqgan.yaml and vqgan.ckpt.

    Raises FileNotFoundError, or ValueError naming the key that is missing, unknown or misshapen.
    """
    folder = Path(folder)
    config = vqgan_config(folder / "vqgan.yaml")
    path = folder / "vqgan.ckpt"
    stored = read_pth(path)
    found = {key for key in stored if not key.startswith(IGNORED_PREFIX)}
    abstract = abstract_vqgan(config)
    wanted = {release_key(tree_path) for tree_path, _ in _leaves(abstract)}
    for keys, what in ((wanted - found, "lacks"), (found - wanted, "has the unknown key")):
        if keys:
            raise ValueError(
                f"{path} {what} {min(keys)!r} ({len(keys)} in all): want the checkpoint that vqgan.yaml describes"
            )

    def leaf(tree_path: tuple, expected: Any) -> np.ndarray:
        key = release_key(tree_path)
        value = np.asarray(stored[key])
        value = value.transpose(KERNEL_AXES) if value.ndim == 4 else value
        if value.shape != expected.shape:
            raise ValueError(
                f"{path}: {key} has shape {value.shape} in our order, vqgan.yaml asks for {expected.shape}"
            )
        return np.ascontiguousarray(value, dtype=np.float32)

    return config, jax.tree_util.tree_map_with_path(leaf, abstract)


def release_tensors(params: Mapping[str, Any], config: VQGANConfig) -> dict[str, np.ndarray]:
    """The inverse: our parameters by the release's keys, convolutions as OIHW.

    Raises ValueError for a VQGAN that the release's format cannot hold (a stem, separable convolutions, …).
    """
    plain = VQGANConfig()
    for name in ("stem_px", "separable", "norm", "normalise_codes"):
        if getattr(config, name) != getattr(plain, name):
            raise ValueError(
                f"VQGAN with {name}={getattr(config, name)}: the release's format holds Chameleon's "
                f"architecture only ({name}={getattr(plain, name)})"
            )
    tensors = {release_key(path): np.asarray(leaf) for path, leaf in _leaves(params)}
    backwards = tuple(np.argsort(KERNEL_AXES))
    return {
        key: np.ascontiguousarray(value.transpose(backwards)) if value.ndim == 4 else value
        for key, value in tensors.items()
    }


def vqgan_config(path: str | Path) -> VQGANConfig:
    """The sizes in vqgan.yaml. Raises ValueError where a field is missing or asks for a part we do not build."""
    path = Path(path)
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
        sizes = params["ddconfig"]
        for name, value in FIXED.items():
            if sizes[name] != value:
                raise ValueError(f"{path}: {name} is {sizes[name]}, only {value} is supported")
        return VQGANConfig(
            channels=sizes["ch"],
            channel_multipliers=tuple(sizes["ch_mult"]),
            num_res_blocks=sizes["num_res_blocks"],
            z_channels=sizes["z_channels"],
            code_width=params["embed_dim"],
            num_codes=params["n_embed"],
            dropout=sizes["dropout"],
        )
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a VQGAN description ({type(error).__name__}: {error}): want model.params with "
            "ddconfig, embed_dim and n_embed"
        ) from error


def release_key(tree_path: tuple) -> str:
    """The release's key of a leaf.

    >>> release_key(("decoder", "up_1", "upsample", "kernel"))
    'decoder.up.1.upsample.conv.weight'
    """
    *names, last = (str(getattr(entry, "key", entry)) for entry in tree_path)
    joined = ".".join([*names, LEAVES[last]])
    joined = re.sub(r"\b(down|up)_(\d+)", r"\1.\2", joined)
    joined = re.sub(r"(?<!mid\.)\bblock_(\d+)", r"block.\1", joined)
    joined = re.sub(r"\b(downsample|upsample)\b", r"\1.conv", joined)
    return re.sub(r"\b(quant_conv|post_quant_conv)\.conv\b", r"\1", joined)


def _leaves(tree: Any) -> list[tuple[tuple, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]
