"""Drawing a token: exact top-k, temperature, and noise that depends on nothing but seed and place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.sampling import policy
from lumina_jax.sampling.policy import Policy

draw = jax.jit(policy.draw)
gumbel_noise = jax.jit(policy.gumbel_noise, static_argnums=2)
keep_top_k = jax.jit(policy.keep_top_k)


def policy_of(num_rows: int, temperature: float = 1.0, top_k: int = 10**6) -> Policy:
    """One row a seed 0, 1, …"""
    ones = jnp.ones(num_rows)
    seeds = jnp.arange(num_rows, dtype=jnp.int32)
    top = jnp.full(num_rows, top_k, jnp.int32)
    return Policy(seeds, temperature * ones, top, guidance=ones)


def best_by_sorting(logits: np.ndarray, top_k: int) -> np.ndarray:
    """The k best of one row, equal ones in order of their index."""
    kept = np.zeros(len(logits), bool)
    kept[np.argsort(-logits, kind="stable")[:top_k]] = True
    return kept


@pytest.mark.parametrize("step", [1e-7, 0.5], ids=["all different", "many ties"])
def test_keep_top_k_equals_a_stable_sort(step: float) -> None:
    rng = np.random.default_rng(0)
    logits = (np.round(rng.normal(size=(6, 301)) / step) * step).astype(np.float32)
    logits[:, :20] = -np.inf
    counts = np.array([1, 2, 17, 200, 300, 999], np.int32)
    kept = np.asarray(keep_top_k(jnp.array(logits), jnp.array(counts)))
    for row, scores, count in zip(kept, logits, counts, strict=True):
        np.testing.assert_array_equal(row, best_by_sorting(scores, count))


def test_draw_with_top_k_1_equals_argmax() -> None:
    greedy = policy_of(2, top_k=1)
    logits = jnp.array([[0.0, 2.0, 2.0, 1.0], [-5.0, -9.0, -4.0, -4.0]])
    drawn = [draw(logits, greedy, jnp.int32(place)).tolist() for place in range(20)]
    assert drawn == [[1, 2]] * 20


def test_draw_follows_the_tempered_truncated_distribution() -> None:
    num_rows, temperature = 20_000, 0.7
    logits = np.array([1.0, 0.2, 0.6, -0.3], np.float32)
    batch = jnp.broadcast_to(logits, (num_rows, 4))
    drawn = draw(batch, policy_of(num_rows, temperature, top_k=3), jnp.int32(5))
    found = np.bincount(np.asarray(drawn), minlength=4) / num_rows
    wanted = np.where(logits > -0.3, np.exp(logits / temperature), 0)
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=0.015)  # 4 standard errors
    assert found[3] == 0


def test_noise_of_a_row_is_the_same_alone_and_among_others() -> None:
    together = gumbel_noise(jnp.array([3, 8, 3]), jnp.array([5, 5, 6]), 50)
    alone = gumbel_noise(jnp.array([3]), jnp.int32(5), 50)
    np.testing.assert_array_equal(together[0], alone[0])
    assert not np.array_equal(together[0], together[1])  # another seed
    assert not np.array_equal(together[0], together[2])  # another place


def test_noise_is_standard_gumbel() -> None:
    noise = np.asarray(gumbel_noise(jnp.arange(64), jnp.int32(0), 4000))
    assert abs(noise.mean() - np.euler_gamma) < 0.01
    assert abs(noise.var() - np.pi**2 / 6) < 0.03
