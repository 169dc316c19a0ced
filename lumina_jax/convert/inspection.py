"""What a folder of weights is, and whether two hold the same model, whatever their layouts."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lumina_jax.checkpoint import digest_of_part
from lumina_jax.checksums import digest_of
from lumina_jax.convert.model_config import preset_name
from lumina_jax.convert.weights import Leaf, Weights

PARTS = ("transformer", "vqgan")
PIECE = 2**22  # numbers compared at once


class Difference(NamedTuple):
    """An array that is not the same in two models."""

    name: str
    reason: str


def describe_weights(weights: Weights, every_array: bool = False) -> str:
    """Layout, sizes, dtypes, bytes and digests as lines; every array is read, with a progress bar.

    The digest of a part is the same for the same weights in any layout.
    """
    digests = read_digests(weights, weights.leaves)
    config = weights.config
    lines = [
        f"layout       {weights.layout}",
        *(f"found        {line}" for line in weights.findings),
    ]
    lines.append(f"preset       {preset_name(config.transformer)}")
    lines.append(
        f"image layout {config.image_layout}, trained at {config.target_px} px, {config.max_tokens} tokens"
    )
    for part in PARTS:
        leaves = weights.part(part)
        if not leaves:
            continue
        count = sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in leaves.values())
        dtypes = ", ".join(sorted(Counter(leaf.dtype.name for leaf in leaves.values())))
        size = sum(leaf.nbytes for leaf in leaves.values())
        digest = digest_of_part(digests, part)
        lines.append(
            f"{part:12s} {count:,} parameters in {len(leaves)} arrays, {dtypes}, {size:,} bytes, digest {digest}"
        )
    if weights.tokenizer is not None:
        vocab = weights.tokenizer.vocab
        lines.append(
            f"tokenizer    {vocab.size:,} ids, {vocab.num_codes:,} image codes, "
            f"fingerprint {weights.tokenizer.fingerprint}"
        )
    if every_array:
        for name, leaf in weights.leaves.items():
            lines.append(f"  {digests[name]}  {leaf.dtype.name:9s} {leaf.shape!s:24s} {name}")
    return "\n".join(lines)


def differences(first: Weights, second: Weights) -> list[Difference]:
    """Every array that one model lacks or that has another shape, dtype or bits; [] where they are the same.

    A part or a tokenizer that only one of them has at all is passed over.
    """
    found = []
    parts = tuple(f"{part}/" for part in PARTS if first.part(part) and second.part(part))
    ours, theirs = (
        {name: leaf for name, leaf in weights.leaves.items() if name.startswith(parts)}
        for weights in (first, second)
    )
    for name in sorted(ours.keys() ^ theirs.keys()):
        where = "first" if name in ours else "second"
        found.append(Difference(name, f"only in the {where}"))
    common = [name for name in ours if name in theirs]
    total = sum(ours[name].nbytes for name in common)
    with tqdm(total=total, unit="B", unit_scale=True, desc="comparing") as bar:
        for name in common:
            reason = _difference(ours[name], theirs[name])
            if reason:
                found.append(Difference(name, reason))
            bar.update(ours[name].nbytes)
    if first.tokenizer and second.tokenizer:
        prints = first.tokenizer.fingerprint, second.tokenizer.fingerprint
        if prints[0] != prints[1]:
            found.append(Difference("tokenizer", f"fingerprint {prints[0]} and {prints[1]}"))
    return found


def read_digests(weights: Weights, leaves: Mapping[str, Leaf]) -> dict[str, str]:
    """The digest of every leaf, read with a progress bar."""
    digests = {}
    with tqdm(total=weights.nbytes, unit="B", unit_scale=True, desc="reading") as bar:
        for name, leaf in leaves.items():
            digests[name] = digest_of(leaf.read())
            bar.update(leaf.nbytes)
    return digests


def _difference(first: Leaf, second: Leaf) -> str | None:
    """Why two leaves are not the same; None where they are, bit for bit."""
    if first.shape != second.shape:
        return f"shape {first.shape} and {second.shape}"
    one, other = first.read().reshape(-1), second.read().reshape(-1)
    unequal, largest = 0, 0.0
    for start in range(0, one.size, PIECE):
        pieces = one[start : start + PIECE], other[start : start + PIECE]
        if first.dtype == second.dtype and pieces[0].tobytes() == pieces[1].tobytes():
            continue
        numbers = [np.asarray(piece, np.float32) for piece in pieces]
        same = (numbers[0] == numbers[1]) | (np.isnan(numbers[0]) & np.isnan(numbers[1]))
        unequal += int(np.sum(~same)) or (
            first.dtype == second.dtype
        )  # other bits of equal numbers
        gaps = np.abs(numbers[0][~same] - numbers[1][~same])
        largest = max(largest, float(np.nanmax(gaps, initial=0.0)))
    if not unequal and first.dtype == second.dtype:
        return None
    dtypes = "" if first.dtype == second.dtype else f"{first.dtype.name} and {second.dtype.name}, "
    return f"{dtypes}{unequal:,} of {one.size:,} numbers differ, by at most {largest:.3g}"
