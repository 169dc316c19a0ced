"""Any weights into one self-describing checkpoint: a group of arrays at a time, resumable, atomic at the end."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lumina_jax.config_json import config_to_dict
from lumina_jax.convert.transformer import FLOATS
from lumina_jax.convert.weights import Leaf, Weights
from lumina_jax.dims import pick
from lumina_jax.model_writer import ModelWriter

GROUP_BYTES = (
    256 * 2**20
)  # arrays read, digested and handed to Orbax together; a larger one goes alone
SWITCH_S = 2e-4  # how long a thread may keep another waiting for Python's lock; the usual 5 ms stall reading
HEAD = "transformer/head/table"


@dataclass(frozen=True)
class CheckpointOptions:
    """How weights change on their way."""

    dtype: str | None = None  # cast the transformer to bfloat16, float16 or float32
    # start finetuning as Lumina-mGPT did: the head's rows of the image codes are zero
    zero_code_logits: bool = False


def write_checkpoint(
    weights: Weights, path: str | Path, options: CheckpointOptions | None = None
) -> Path:
    """Write `weights` as a checkpoint that `Lumina.load`, sample.py and train.py take. Returns its folder.

    The same call goes on where a killed one stopped. Raises CheckpointError (a ValueError) where `path` exists, holds
    other unfinished work or cannot be written, ValueError where the source turns out to be damaged.
    """
    options = options or CheckpointOptions()
    if options.zero_code_logits and (HEAD not in weights.leaves or weights.tokenizer is None):
        raise ValueError(
            "--zero-code-logits wants a transformer and its tokenizer; the source lacks one"
        )
    weights = _changed(weights, options)
    source = {
        "from": weights.layout,
        "stamp": weights.stamp,
        "options": [options.dtype, options.zero_code_logits],
        "model": config_to_dict(weights.config),
    }
    with ModelWriter(path, source) as writer:
        return _write_left(weights, writer)


def _write_left(weights: Weights, writer: ModelWriter) -> Path:
    """Write what the writer has not yet, with a progress bar, and finish."""
    left = {name: leaf for name, leaf in weights.leaves.items() if name not in writer.digests}
    done = weights.nbytes - sum(leaf.nbytes for leaf in left.values())
    with (
        _quick_switches(),
        tqdm(
            total=weights.nbytes, initial=done, unit="B", unit_scale=True, desc="converting"
        ) as bar,
    ):
        for group in _groups(left):
            writer.write({name: leaf.read() for name, leaf in group.items()})
            bar.update(sum(leaf.nbytes for leaf in group.values()))
        notes = {**weights.notes, "converted_from": weights.layout}
        return writer.finish(weights.config, weights.tokenizer, notes)


@contextmanager
def _quick_switches() -> Iterator[None]:
    """Let the thread that reads and the one that writes take turns at short intervals."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _groups(leaves: Mapping[str, Leaf]) -> Iterator[dict[str, Leaf]]:
    """The leaves in order, in groups of about GROUP_BYTES."""
    group: dict[str, Leaf] = {}
    size = 0
    for name, leaf in leaves.items():
        if group and size + leaf.nbytes > GROUP_BYTES:
            yield group
            group, size = {}, 0
        group[name] = leaf
        size += leaf.nbytes
    if group:
        yield group


def _changed(weights: Weights, options: CheckpointOptions) -> Weights:
    """The same weights with the options' changes made as each array is read."""
    leaves = dict(weights.leaves)
    if options.zero_code_logits:
        leaves[HEAD] = _with_zero_rows(leaves[HEAD], weights)
    if options.dtype is None:
        return replace(weights, leaves=leaves)
    dtype = pick({name: name for name in FLOATS}, options.dtype, "dtype")
    for name, leaf in leaves.items():
        if name.startswith("transformer/"):
            leaves[name] = _cast(leaf, dtype)
    same = weights.config.transformer.compute_dtype == weights.config.transformer.param_dtype
    changed = {"param_dtype": dtype, **({"compute_dtype": dtype} if same else {})}
    transformer = replace(weights.config.transformer, **changed)
    return replace(weights, leaves=leaves, config=replace(weights.config, transformer=transformer))


def _cast(leaf: Leaf, dtype: str) -> Leaf:
    to = jnp.dtype(dtype)
    return Leaf(leaf.shape, to, lambda: leaf.read().astype(to))


def _with_zero_rows(head: Leaf, weights: Weights) -> Leaf:
    assert weights.tokenizer is not None
    vocab = weights.tokenizer.vocab

    def read() -> np.ndarray:
        table = head.read().copy()
        table[vocab.first_code_id : vocab.first_code_id + vocab.num_codes] = 0
        return table

    return Leaf(head.shape, head.dtype, read)
