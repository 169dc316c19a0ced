"""Splash attention, interpreted, against XLA's: values and gradients, padded, packed, with groups of heads."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.ops.attention import attention
from lumina_jax.ops.splash import LANES, MAX_BLOCK, block_size, make_splash

NUM_HEADS, HEAD_SIZE = 4, 128
SLOW = pytest.mark.slow


def draw(length: int, num_kv_heads: int) -> tuple[list[jax.Array], jax.Array]:
    """Queries, keys and values of two rows; segments that end inside blocks, row by row elsewhere, then padding."""
    rng = np.random.default_rng(length)
    heads = (NUM_HEADS, num_kv_heads, num_kv_heads)
    arrays = [rng.standard_normal((2, length, n, HEAD_SIZE), np.float32) for n in heads]
    place = np.arange(length)
    ends = np.array([[length // 3, length - 5], [length // 2, length - 40]])
    segments = 1 + (place >= ends[:, :1]) - 2 * (place >= ends[:, 1:])
    return [jnp.asarray(x) for x in arrays], jnp.asarray(segments, jnp.int32)


@cache
def value_and_gradients(length: int, num_kv_heads: int, packed: bool, kernel: Any) -> Any:
    """Attention, and the gradients of a function of it by query, key and value."""
    arrays, segments = draw(length, num_kv_heads)
    splash = make_splash(length, NUM_HEADS, on_tpu=False) if kernel == "splash" else None

    def objective(arrays: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        given = segments if packed else None
        mixed = attention(*arrays, segment_ids=given, kernel=kernel, splash=splash)
        weight = (segments > 0)[:, :, None, None]  # nobody reads what padding attends to
        return jnp.sum(weight * jnp.sin(3 * mixed)), weight * mixed

    gradients, mixed = jax.jit(jax.grad(objective, has_aux=True))(arrays)
    return mixed, *gradients


@pytest.mark.parametrize(
    ("length", "num_kv_heads", "packed"),
    [
        (200, 2, True),
        pytest.param(256, 4, False, marks=SLOW),
        pytest.param(256, 4, True, marks=SLOW),
        pytest.param(200, 4, False, marks=SLOW),
        pytest.param(384, 1, True, marks=SLOW),
        pytest.param(256, 2, False, marks=SLOW),
    ],
)
def test_splash_is_xlas_attention(length: int, num_kv_heads: int, packed: bool):
    """Of lengths that are no whole blocks too: those are padded and cut again."""
    found, wanted = (
        value_and_gradients(length, num_kv_heads, packed, kernel) for kernel in ("splash", "xla")
    )
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and float(jnp.abs(other).max()) > 0.1
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_blocks_are_the_largest_that_divide_a_length():
    wanted = {128: 128, 256: 256, 1024: 1024, 1152: 384, 4096: 1024, 4608: 768, 8320: 640}
    assert {length: block_size(length) for length in wanted} == wanted
    for length in range(LANES, 64 * LANES, LANES):
        block = block_size(length)
        assert length % block == 0 and block % LANES == 0 and block <= MAX_BLOCK


def test_parts_of_a_sequence_that_are_no_whole_lanes_are_refused():
    with pytest.raises(
        ValueError, match="rows of 384 tokens split 2 ways: .* max_tokens a multiple of 256"
    ):
        make_splash(384, NUM_HEADS, sequence_shards=2, on_tpu=False)
    make_splash(512, NUM_HEADS, sequence_shards=2, on_tpu=False)
