"""The VQGAN of Meta's vqgan.ckpt and of transformers' vqmodel as our tree, and the way back.

The tree mirrors the release, so one rule covers every leaf: `encoder.down.0.block.1.conv1.weight` [O, I, H, W] is
`encoder/down_0/block_1/conv1/kernel` [H, W, I, O] here.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lumina_jax.config import VQGANConfig
from lumina_jax.convert.stored_tensor import StoredTensor
from lumina_jax.convert.tables import IGNORED
from lumina_jax.convert.transformer import FLOATS, Entry
from lumina_jax.convert.weights import Leaf, named
from lumina_jax.vqgan.codec import abstract_vqgan

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "embedding": "embedding.weight"}
KERNEL_AXES = (2, 3, 1, 0)  # OIHW -> HWIO


def read_leaves(
    config: VQGANConfig, stored: Mapping[str, StoredTensor], where: Path
) -> dict[str, Leaf]:
    """Our arrays by name, unread. Raises ValueError naming the key that is missing, unknown or misshapen."""
    found = {key for key in stored if not key.startswith(IGNORED["vqgan"])}
    abstract = dict(named(abstract_vqgan(config)))
    wanted = {release_key(name): name for name in abstract}
    for keys, what in (
        (wanted.keys() - found, "lacks"),
        (found - wanted.keys(), "has the unknown"),
    ):
        if keys:
            raise ValueError(
                f"{where} {what} {min(keys)!r} ({len(keys)} in all): want the checkpoint that its description asks for"
            )
    return {name: _leaf(stored[key], abstract[name].shape) for key, name in wanted.items()}


def stored_entries(config: VQGANConfig, leaves: Mapping[str, Leaf]) -> dict[str, Entry]:
    """The tensors by the release's keys, convolutions as OIHW: the inverse of `read_leaves`.

    Raises ValueError for a VQGAN that the release's format cannot hold (a stem, separable convolutions, …).
    """
    plain = VQGANConfig()
    for name in ("stem_px", "separable", "norm", "normalise_codes", "num_groups"):
        if getattr(config, name) != getattr(plain, name):
            raise ValueError(
                f"VQGAN with {name}={getattr(config, name)}: the released formats hold Chameleon's "
                f"architecture only ({name}={getattr(plain, name)})"
            )
    return {release_key(name): _entry(leaf) for name, leaf in leaves.items()}


def release_key(name: str) -> str:
    """The release's key of a leaf.

    >>> release_key("decoder/up_1/upsample/kernel")
    'decoder.up.1.upsample.conv.weight'
    """
    *names, last = name.split("/")
    joined = ".".join([*names, LEAVES[last]])
    joined = re.sub(r"\b(down|up)_(\d+)", r"\1.\2", joined)
    joined = re.sub(r"(?<!mid\.)\bblock_(\d+)", r"block.\1", joined)
    joined = re.sub(r"\b(downsample|upsample)\b", r"\1.conv", joined)
    return re.sub(r"\b(quant_conv|post_quant_conv)\.conv\b", r"\1", joined)


def _leaf(tensor: StoredTensor, shape: tuple[int, ...]) -> Leaf:
    axes = KERNEL_AXES if len(tensor.shape) == 4 else tuple(range(len(tensor.shape)))
    turned = tuple(tensor.shape[axis] for axis in axes)
    if turned != shape or tensor.dtype.name not in FLOATS:
        raise ValueError(
            f"{tensor.where}: {tensor.name} has shape {turned} in our order and dtype {tensor.dtype.name}, want "
            f"{shape} as its description says, and one of {', '.join(FLOATS)}"
        )
    return Leaf(shape, tensor.dtype, lambda: np.ascontiguousarray(tensor.read().transpose(axes)))


def _entry(leaf: Leaf) -> Entry:
    axes = tuple(int(i) for i in np.argsort(KERNEL_AXES))
    if len(leaf.shape) != 4:
        return Entry(leaf.shape, leaf.dtype, leaf.read)
    shape = tuple(leaf.shape[axis] for axis in axes)
    return Entry(shape, leaf.dtype, lambda: np.ascontiguousarray(leaf.read().transpose(axes)))
