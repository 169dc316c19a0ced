"""Attention against a loop over heads and queries, and the choice of its kernel."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.ops.attention import attention, cached_attention, choose_kernel

B, S, T, N, K, H = 2, 3, 7, 4, 2, 8


def draw_qkv(num_slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random queries, keys and values; K < N, S < T."""
    rng = np.random.default_rng(0)
    shapes = (B, S, N, H), (B, num_slots, K, H), (B, num_slots, K, H)
    query, key, value = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return query, key, value


def attend_by_loop(query, key, value, sees) -> np.ndarray:
    """float64 attention; `sees(b, s, t)` says whether query s of row b reads slot t."""
    out = np.zeros(query.shape)
    for b, s, n in np.ndindex(*query.shape[:3]):
        k = n * key.shape[2] // query.shape[2]
        slots = [t for t in range(key.shape[1]) if sees(b, s, t)]
        scores = key[b, slots, k].astype(float) @ query[b, s, n] / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, s, n] = weights @ value[b, slots, k] / weights.sum()
    return out


def test_attention_without_cache_is_causal():
    """Query s reads slots 0 to s; query head n reads key head n * K // N."""
    query, key, value = draw_qkv(S)
    want = attend_by_loop(query, key, value, lambda b, s, t: t <= s)
    got = attention(*map(jnp.asarray, (query, key, value)))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_attention_with_start_reads_each_rows_own_slots():
    """Rows that hold 1 and 4 tokens read up to slots 1+s and 4+s."""
    query, key, value = draw_qkv(T)
    start = np.array([1, 4], np.int32)
    want = attend_by_loop(query, key, value, lambda b, s, t: t <= start[b] + s)
    by_head = (jnp.asarray(each).swapaxes(1, 2) for each in (key, value))
    got = cached_attention(jnp.asarray(query), *by_head, start=jnp.asarray(start))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [2, 512])
def test_attention_stays_within_segments(block, monkeypatch):
    """The third token of row 0 starts a new segment and sees itself alone; in blocks of queries or at once."""
    monkeypatch.setattr("lumina_jax.ops.attention.BLOCK", block)
    query, key, value = draw_qkv(S)
    segments = np.array([[1, 1, 2], [1, 2, 2]], np.int32)
    want = attend_by_loop(
        query, key, value, lambda b, s, t: t <= s and segments[b, s] == segments[b, t]
    )
    got = attention(*map(jnp.asarray, (query, key, value)), segment_ids=jnp.asarray(segments))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "head_size", "want"),
    [
        ("gpu", "9.0", "bfloat16", 128, "cudnn"),
        ("gpu", "8.0", "float16", 64, "cudnn"),
        ("cuda", "9.0", "bfloat16", 64, "cudnn"),
        ("gpu", "7.5", "bfloat16", 128, "xla"),
        ("gpu", "9.0", "float32", 128, "xla"),
        ("gpu", "9.0", "bfloat16", 160, "xla"),
        ("gpu", "9.0", "bfloat16", 36, "xla"),
        ("cpu", None, "bfloat16", 128, "xla"),
        ("tpu", None, "bfloat16", 128, "splash"),
        ("tpu", None, "float32", 256, "splash"),
        ("tpu", None, "bfloat16", 64, "xla"),
    ],
)
def test_choose_kernel(platform, capability, dtype, head_size, want):
    """cuDNN only on Ampere and newer, for 16-bit and small heads; splash on TPUs, for heads of whole lanes."""
    device = SimpleNamespace(platform=platform)
    if capability:
        device.compute_capability = capability
    assert choose_kernel(device, dtype, head_size) == want


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs cuDNN")
def test_cudnn_equals_xla():
    """The fused kernel computes the same function, to bfloat16's precision."""
    shapes = (B, 64, N, 64), (B, 64, K, 64), (B, 64, K, 64)
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [
        jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, shapes, strict=True)
    ]
    fused, plain = attention(*arrays, kernel="cudnn"), attention(*arrays, kernel="xla")
    np.testing.assert_allclose(np.float32(fused), np.float32(plain), atol=2e-2)
