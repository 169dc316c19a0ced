"""Digests of the arrays of a tree: what tells a damaged or another weight from the one that was saved.

A digest is 32 bits: the sum, modulo 2^32, of every word's bits mixed with its place; a word is an element, or two of 16
bits where the last axis has an even length. A sum has no order, so the
devices that hold the parts of a sharded array add up their own, and no process ever gathers the whole; the mixing
is a bijection at every place, so no single change goes unnoticed, and changes at two places hardly ever cancel.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

GOLDEN_RATIO = (
    0x9E3779B9  # times its place, each element gets its own start (Knuth's multiplicative hashing)
)
MIXERS = (0x85EBCA6B, 0xC2B2AE35)  # odd multipliers of MurmurHash3's finaliser (public domain)
SHIFTS = (16, 13, 16)
PIECE = 1 << 16  # elements mixed at once on the host: what stays in the cache is four times as fast
WORDS = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.uint16),
    4: np.dtype(np.uint32),
    8: np.dtype(np.uint32),
}


def digest_of(leaf: Any) -> str:
    """The digest of one array, 8 hex digits, the same however it is sharded; every process of a cluster calls it."""
    return _text(device_digest(leaf) if _stays_on_devices(leaf) else host_digest(np.asarray(leaf)))


def digests_of_leaves(tree: Any) -> dict[str, str]:
    """{"transformer/layers/00/q": "9ae0daaf", …}: the digest of every leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    remote = {leaf_name(path): leaf for path, leaf in leaves if _stays_on_devices(leaf)}
    sums = {
        name: device_digest(leaf) for name, leaf in remote.items()
    }  # begun before any is fetched
    return {
        leaf_name(path): _text(sums[leaf_name(path)])
        if leaf_name(path) in sums
        else digest_of(leaf)
        for path, leaf in leaves
    }


def host_digest(array: np.ndarray) -> int:
    """The digest of an array in memory, or mapped into it."""
    array = np.ascontiguousarray(_in_bytes(array))
    flat = array.reshape(-1).view(WORDS[4 if _is_paired(array) else array.dtype.itemsize])
    size = min(PIECE, flat.size)
    starts = np.arange(size, dtype=np.uint32) * np.uint32(GOLDEN_RATIO)
    buffers = [np.empty(size, np.uint32) for _ in range(3)]  # used again: twice as fast
    total = 0
    for first in range(0, flat.size, PIECE):
        piece = flat[first : first + PIECE]
        bits, mixed, shifted = (buffer[: piece.size] for buffer in buffers)
        bits[...] = piece
        np.add(starts[: piece.size], np.uint32(first * GOLDEN_RATIO & 0xFFFFFFFF), out=mixed)
        np.bitwise_xor(mixed, bits, out=mixed)
        for shift, factor in zip(SHIFTS, (*MIXERS, 1), strict=True):
            np.right_shift(mixed, np.uint32(shift), out=shifted)
            np.bitwise_xor(mixed, shifted, out=mixed)
            np.multiply(mixed, np.uint32(factor), out=mixed)
        total += int(np.add.reduce(mixed))
    return total & 0xFFFFFFFF


@jax.jit
def device_digest(leaf: jax.Array) -> jax.Array:
    """The digest, uint32, of an array where it is; of a key array its data."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    leaf = _in_bytes(leaf)
    if leaf.dtype == bool:
        bits = leaf.astype(jnp.uint32)
    elif _is_paired(leaf):
        pairs = leaf.reshape(*leaf.shape[:-1], leaf.shape[-1] // 2, 2)
        bits = jax.lax.bitcast_convert_type(pairs, WORDS[4])
    else:
        bits = jax.lax.bitcast_convert_type(leaf, WORDS[leaf.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    mixed = bits ^ (place * jnp.uint32(GOLDEN_RATIO))
    for shift, factor in zip(SHIFTS, (*MIXERS, 1), strict=True):
        mixed = (mixed ^ (mixed >> jnp.uint32(shift))) * jnp.uint32(factor)
    return jnp.sum(mixed, dtype=jnp.uint32)


def leaf_name(path: tuple) -> str:
    """A leaf's path as "a/b/c"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _in_bytes(array: Any) -> Any:
    """The array; of int4, which devices pack, one a byte."""
    return array.astype(np.int8) if array.dtype == jnp.int4 else array


def _is_paired(array: Any) -> bool:
    """Whether two elements make a word: half the work."""
    return array.dtype.itemsize == 2 and array.ndim > 0 and array.shape[-1] % 2 == 0


def _stays_on_devices(leaf: Any) -> bool:
    """Whether the host has no cheap view of an array: another process holds a part, or an accelerator does."""
    if not isinstance(leaf, jax.Array):
        return False
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return True
    platforms = {device.platform for device in leaf.sharding.device_set}
    return not leaf.is_fully_addressable or platforms != {"cpu"}


def _text(digest: Any) -> str:
    return f"{int(digest):08x}"
