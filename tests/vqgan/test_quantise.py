"""Nearest codes, and the codebook that follows by moving averages."""

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.vqgan.quantise import (
    codebook_of,
    init_codebook,
    nearest_codes,
    normalise,
    perplexity,
    update_codebook,
)

KEY = jax.random.key(0)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_nearest_codes_equals_brute_force():
    vectors, embedding = normal(2, 3, 5, 4), normal(7, 4, seed=1)
    distance = jnp.linalg.norm(vectors[..., None, :] - embedding, axis=-1)
    np.testing.assert_array_equal(nearest_codes(vectors, embedding), distance.argmin(-1))


def test_nearest_codes_takes_the_first_on_ties():
    embedding = jnp.asarray([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert nearest_codes(jnp.asarray([[0.0, 0.9]]), embedding).tolist() == [1]


def test_embedding_is_the_mean_of_its_encodings_after_the_first_step():
    vectors, codes = normal(6, 2), jnp.asarray([0, 0, 0, 1, 1, 1])
    _, embedding, restarted = update_codebook(
        init_codebook(2, 2), vectors, codes, KEY, decay=0.9, restart_below=0.1
    )
    expected = jnp.stack([vectors[:3].mean(0), vectors[3:].mean(0)])
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    assert restarted.tolist() == [0, 0]


def test_embedding_moves_by_the_decay():
    codebook, _, _ = update_codebook(
        init_codebook(1, 1),
        jnp.full((4, 1), 1.0),
        jnp.zeros(4, int),
        KEY,
        decay=0.75,
        restart_below=0.0,
    )
    _, embedding, _ = update_codebook(
        codebook, jnp.full((4, 1), 8.0), jnp.zeros(4, int), KEY, decay=0.75, restart_below=0.0
    )
    np.testing.assert_allclose(embedding, [[(0.75 * 1 + 8) / 1.75]], rtol=1e-6)


def test_dead_codes_are_restarted_from_the_batch():
    vectors, codes = normal(8, 3), jnp.asarray([0, 0, 0, 0, 2, 2, 2, 2])
    codebook, embedding, restarted = update_codebook(
        init_codebook(4, 3), vectors, codes, KEY, decay=0.9, restart_below=0.5
    )
    assert restarted.tolist() == [0, 1, 0, 1]
    for dead in (1, 3):
        assert bool((jnp.abs(vectors - embedding[dead]).max(-1) < 1e-5).any())
    assert float(codebook.counts.min()) > 0


def test_codes_in_use_are_left_alone():
    vectors, codes = normal(8, 3), jnp.arange(8) % 4
    _, _, restarted = update_codebook(
        init_codebook(4, 3), vectors, codes, KEY, decay=0.9, restart_below=0.5
    )
    assert float(restarted.sum()) == 0


def test_given_codes_stay_in_place_through_the_first_steps():
    given = normal(4, 3)
    codebook = codebook_of(given)
    for _ in range(3):  # only code 2 is used, far from where it is
        codebook, embedding, restarted = update_codebook(
            codebook,
            given[2] + jnp.ones((4, 3)),
            jnp.full(4, 2),
            KEY,
            decay=0.99,
            restart_below=0.1,
        )
    np.testing.assert_allclose(np.delete(embedding, 2, 0), np.delete(given, 2, 0), atol=1e-5)
    assert 0.05 < float((embedding - given)[2].min()) < 0.2
    assert float(restarted.sum()) == 0


def test_perplexity_counts_the_codes_a_batch_uses():
    np.testing.assert_allclose(perplexity(jnp.asarray([3, 3, 1, 1]), 9), 2, rtol=1e-5)
    np.testing.assert_allclose(perplexity(jnp.zeros(4, int), 9), 1, rtol=1e-5)


def test_normalise_scales_to_length_one():
    np.testing.assert_allclose(jnp.linalg.norm(normalise(5 * normal(3, 4)), axis=-1), 1, atol=1e-6)
