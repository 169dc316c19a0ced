"""The cache's slots: where a window lands, and what rewinding keeps."""

import jax.numpy as jnp
import numpy as np

from lumina_jax.config import TransformerConfig
from lumina_jax.ops.cache import init_cache, rewind, write

CONFIG = TransformerConfig(
    num_layers=3,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_size=4,
    mlp_width=8,
    vocab_size=11,
    compute_dtype="bfloat16",
)


def test_init_cache_is_empty_with_one_array_a_layer():
    """Shape [B, K, T, H] in the compute dtype, nothing filled."""
    cache = init_cache(CONFIG, num_rows=2, num_slots=5)
    assert [leaf.shape for leaf in (*cache.keys, *cache.values)] == [(2, 2, 5, 4)] * 6
    assert cache.keys[0].dtype == jnp.bfloat16
    assert cache.length.tolist() == [0, 0]


def test_write_places_each_row_at_its_start():
    """Rows starting at 0 and 2: the other slots stay as they were."""
    slots = -jnp.ones((2, 1, 5, 1))
    window = jnp.arange(4.0).reshape(2, 2, 1, 1)
    got = write(slots, window, jnp.array([0, 2], jnp.int32))[:, 0, :, 0]
    np.testing.assert_array_equal(got, [[0, 1, -1, -1, -1], [-1, -1, 2, 3, -1]])


def test_rewind_sets_lengths_and_keeps_the_slots():
    """The slots beyond stay until they are overwritten."""
    cache = init_cache(CONFIG, 2, 5)._replace(length=jnp.array([4, 3], jnp.int32))
    back = rewind(cache, jnp.array([1, 3]))
    assert back.length.tolist() == [1, 3]
    assert back.keys[0] is cache.keys[0]
