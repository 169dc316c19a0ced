"""Cached inference equals the full forward pass, however the sequence is cut into windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.model.chameleon import forward as eager_forward
from lumina_jax.model.params import abstract_params
from lumina_jax.ops.cache import init_cache, rewind

forward = jax.jit(eager_forward, static_argnames=("config", "head_slice"))
CONFIG = TransformerConfig(
    num_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    mlp_width=24,
    vocab_size=31,
)
RNG = np.random.default_rng(0)
PARAMS = jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * RNG.normal(size=leaf.shape), leaf.dtype), abstract_params(CONFIG)
)
IDS = jnp.asarray(RNG.integers(0, 31, (2, 12)), jnp.int32)
NUM_SLOTS = 15
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("windows", [(12,), (1,) * 12, (5, 1, 4, 2), (3, 9)])
def test_windows_equal_full_forward(windows):
    """One window of 12, twelve of 1, and two uneven cuts."""
    want, _ = forward(PARAMS, CONFIG, IDS)
    cache, start, pieces = init_cache(CONFIG, 2, NUM_SLOTS), 0, []
    for size in windows:
        logits, cache = forward(PARAMS, CONFIG, IDS[:, start : start + size], cache=cache)
        pieces.append(logits)
        start += size
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), want, **CLOSE)
    assert cache.length.tolist() == [12, 12]


def test_rewound_cache_forgets_the_rejected_window():
    """Four wrong tokens, rewound, then the right ones: as if the wrong ones had never been."""
    want, _ = forward(PARAMS, CONFIG, IDS)
    _, cache = forward(PARAMS, CONFIG, IDS[:, :5], cache=init_cache(CONFIG, 2, NUM_SLOTS))
    _, cache = forward(PARAMS, CONFIG, (IDS[:, 5:9] + 1) % 31, cache=cache)
    cache = rewind(cache, jnp.array([5, 5]))
    logits, _ = forward(PARAMS, CONFIG, IDS[:, 5:7], cache=cache)
    np.testing.assert_allclose(logits, want[:, 5:7], **CLOSE)


def test_rows_of_different_length_advance_together():
    """Row 0 keeps 3 tokens, row 1 keeps 6; the next window continues each where it stands."""
    want, _ = forward(PARAMS, CONFIG, IDS)
    _, cache = forward(PARAMS, CONFIG, IDS[:, :6], cache=init_cache(CONFIG, 2, NUM_SLOTS))
    cache = rewind(cache, jnp.array([3, 6]))
    window = jnp.stack([IDS[0, 3:7], IDS[1, 6:10]])
    logits, cache = forward(PARAMS, CONFIG, window, cache=cache)
    np.testing.assert_allclose(logits, jnp.stack([want[0, 3:7], want[1, 6:10]]), **CLOSE)
    assert cache.length.tolist() == [7, 10]


def test_positions_may_differ_from_slots():
    """With RoPE only distances count: shifting all positions of a row changes nothing."""
    want, _ = forward(PARAMS, CONFIG, IDS)
    positions = jnp.arange(12)[None] + jnp.array([[3], [40]])
    _, cache = forward(
        PARAMS, CONFIG, IDS[:, :7], positions[:, :7], cache=init_cache(CONFIG, 2, NUM_SLOTS)
    )
    logits, _ = forward(PARAMS, CONFIG, IDS[:, 7:], positions[:, 7:], cache=cache)
    np.testing.assert_allclose(logits, want[:, 7:], **CLOSE)
    other, _ = forward(PARAMS, CONFIG, IDS[:, 7:], positions[:, 7:] + 1, cache=cache)
    assert not np.allclose(other, want[:, 7:], **CLOSE)


def test_cached_step_updates_in_place_when_donated():
    """A jitted step with a donated cache compiles once for all lengths."""
    step = jax.jit(lambda cache, ids: forward(PARAMS, CONFIG, ids, cache=cache), donate_argnums=0)
    want, _ = forward(PARAMS, CONFIG, IDS)
    cache = init_cache(CONFIG, 2, NUM_SLOTS)
    for index in range(4):
        logits, cache = step(cache, IDS[:, index : index + 1])
        np.testing.assert_allclose(logits[:, 0], want[:, index], **CLOSE)
    assert step._cache_size() == 1
