"""Digests: the same wherever an array lies and however it is sharded, another one after any change."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lumina_jax import checksums
from lumina_jax.checksums import PIECE, device_digest, digest_of, digests_of_leaves, host_digest

DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16, np.int32, np.int8, np.bool_)


def numbers(shape: tuple[int, ...], dtype=np.float32, seed: int = 0) -> np.ndarray:
    """Random bits of a dtype."""
    rng = np.random.default_rng(seed)
    if dtype is np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    size = (*shape[:-1], shape[-1] * np.dtype(dtype).itemsize)
    return rng.integers(0, 256, size, dtype=np.uint8).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_host_and_device_digest_agree(dtype):
    """More elements than one piece, and an odd number of them."""
    array = numbers((3, PIECE // 2 + 7), dtype)
    assert host_digest(array) == int(device_digest(array))


def test_digest_of_a_known_array():
    """Computed by hand with Python integers from the definition."""

    def mix(bits: int) -> int:
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            bits = (bits ^ bits >> shift) * factor % 2**32
        return bits ^ bits >> 16

    values = [7, 0, 2**32 - 1]
    total = sum(mix(value ^ place * 0x9E3779B9 % 2**32) for place, value in enumerate(values))
    assert digest_of(np.array(values, np.uint32)) == f"{total % 2**32:08x}"


@pytest.mark.parametrize("spec", [("a", None), (None, "a"), ("a", "b"), ()], ids=str)
def test_sharding_changes_nothing(spec):
    array = numbers((16, 24))
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    assert int(device_digest(placed)) == host_digest(array)


def test_arrays_on_an_accelerator_are_digested_there(monkeypatch):
    """What stays on devices takes the compiled way, in one program, with the same result."""
    tree = {"a": jnp.arange(6.0), "b": {"c": jnp.arange(4, dtype=jnp.int32)}}
    expected = digests_of_leaves(tree)
    monkeypatch.setattr(checksums, "_stays_on_devices", lambda leaf: True)
    monkeypatch.setattr(checksums, "host_digest", None)
    assert digests_of_leaves(tree) == expected
    assert list(expected) == ["a", "b/c"]


def test_every_single_flipped_bit_is_noticed():
    array = numbers((37,), np.float32)
    expected = host_digest(array)
    for place in range(array.nbytes):
        for bit in range(8):
            flipped = array.view(np.uint8).copy()
            flipped[place] ^= 1 << bit
            assert host_digest(flipped.view(np.float32)) != expected


def test_order_matters_and_memory_layout_does_not():
    array = numbers((2, 3), np.int32)
    assert digest_of(array) == digest_of(array.copy(order="F"))
    assert digest_of(array) != digest_of(array.T)
    assert digest_of(array) != digest_of(array[::-1])


def test_random_keys_are_digested_by_their_bits():
    first, second = jax.random.key(0), jax.random.key(1)
    assert digest_of(first) != digest_of(second)


def test_arrays_on_different_devices_are_digested_together(monkeypatch):
    """A transformer over all devices and a VQGAN on the first."""
    mesh = Mesh(np.array(jax.devices()), ("a",))
    spread = jax.device_put(jnp.arange(16.0), NamedSharding(mesh, PartitionSpec("a")))
    tree = {"a": spread, "b": jax.device_put(jnp.arange(4.0), jax.devices()[0])}
    expected = digests_of_leaves(tree)
    monkeypatch.setattr(checksums, "_stays_on_devices", lambda leaf: True)
    assert digests_of_leaves(tree) == expected
