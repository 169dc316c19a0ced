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
keep_min_p = jax.jit(policy.keep_min_p)
keep_top_p = jax.jit(policy.keep_top_p)


def policy_of(num_rows: int, temperature: float = 1.0, top_k: int = 10**6) -> Policy:
    """One row a seed 0, 1, …"""
    ones = jnp.ones(num_rows)
    seeds = jnp.arange(num_rows, dtype=jnp.int32)
    top = jnp.full(num_rows, top_k, jnp.int32)
    return Policy(seeds, temperature * ones, top, guidance=ones[:, None])


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


def nucleus_by_sorting(logits, kept, temperature: float, top_p: float) -> np.ndarray:
    """The fewest likeliest of one row that reach `top_p`, in float64; equal ones in order of their index."""
    scores = np.where(kept, logits, -np.inf).astype(np.float64)
    weights = np.exp((scores - scores.max()) / temperature)
    order = np.argsort(-scores, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    nucleus = np.zeros(len(logits), bool)
    nucleus[order] = before < np.float32(top_p) * weights.sum()
    return nucleus & kept


@pytest.mark.parametrize("step", [1e-7, 0.5], ids=["all different", "many ties"])
def test_keep_top_p_equals_a_stable_sort(step: float) -> None:
    rng = np.random.default_rng(0)
    logits = (np.round(rng.normal(size=(8, 301)) / step) * step).astype(np.float32)
    logits[:, :20] = -np.inf
    top_p = np.array([0.9, 0.5, 0.123, 0.99, 0.9, 1e-50, 1.0, 0.3], np.float32)
    temperatures = np.array([1.0, 0.7, 0.1, 3.0, 1e-3, 1.0, 0.7, 50.0], np.float32)
    kept = np.array(keep_top_k(jnp.array(logits), jnp.array([999, 40, 7, 300, 20, 50, 60, 1])))
    found = keep_top_p(jnp.array(logits), jnp.array(kept), jnp.array(temperatures), top_p)
    assert np.asarray(found).any(axis=-1).all()
    for row, *given in zip(np.asarray(found), logits, kept, temperatures, top_p, strict=True):
        wanted = nucleus_by_sorting(*given)
        if given[-1] == 0:  # what 1e-50 is in float32: the likeliest alone
            wanted = best_by_sorting(given[0], 1)
        np.testing.assert_array_equal(row, wanted)


def test_nucleus_of_a_flat_row_is_exact_at_the_whole_vocabulary() -> None:
    logits, ones = jnp.zeros((1, 2**16)), jnp.ones(1)
    found = keep_top_p(logits, jnp.ones_like(logits, bool), ones, 0.75 * ones)
    assert found[0].sum() == 0.75 * 2**16 and found[0, : 3 * 2**14].all()


def test_nucleus_counts_a_tail_of_tiny_weights() -> None:
    num_tail, tail = 2**16 - 1, 2.0**-15.5  # weights that only the lower half of their bits holds
    top_p, ones = np.linspace(0.5, 0.95, 16, dtype=np.float32), jnp.ones(16)
    row = jnp.full(num_tail + 1, np.log(tail), jnp.float32).at[0].set(0)
    logits = jnp.broadcast_to(row, (16, num_tail + 1))
    found = keep_top_p(logits, jnp.ones_like(logits, bool), ones, jnp.array(top_p)).sum(axis=-1)
    weight = round(2**30 * tail)
    missing = top_p.astype(np.float64) * (2**30 + num_tail * weight) - 2**30
    np.testing.assert_array_equal(found, 1 + np.ceil(missing / weight))


def test_draw_with_top_p_1_equals_the_draw_without_a_nucleus() -> None:
    logits = jnp.array(np.random.default_rng(0).normal(size=(64, 50)), jnp.float32)
    plain, ones = policy_of(64, 0.7, top_k=20), jnp.ones(64)
    wanted = draw(logits, plain, jnp.int32(3)).tolist()
    assert draw(logits, plain._replace(top_p=ones), jnp.int32(3)).tolist() == wanted
    assert draw(logits, plain._replace(top_p=0.3 * ones), jnp.int32(3)).tolist() != wanted


def test_nucleus_is_measured_after_the_temperature() -> None:
    logits = jnp.log(jnp.array([[0.6, 0.3, 0.1]]))
    kept = [
        keep_top_p(logits, logits > -9, jnp.array([t]), jnp.array([0.65]))[0].tolist()
        for t in (1.0, 0.5)
    ]
    assert kept == [[True, True, False], [True, False, False]]  # 0.6 ^ 2 is 0.78 of the squares


def test_keep_min_p_equals_probabilities_against_the_best_at_the_temperature() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (6, 301)).astype(np.float32)
    logits[:, :20] = -np.inf
    temperatures = np.array([1.0, 0.7, 0.1, 3.0, 50.0, 1.0], np.float32)
    min_p = np.array([0.1, 0.5, 0.9, 0.01, 0.999, 1e-6], np.float32)
    found = keep_min_p(jnp.array(logits), jnp.array(temperatures), jnp.array(min_p))
    scaled = logits.astype(np.float64) / temperatures[:, None]
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    np.testing.assert_array_equal(found, shares >= min_p[:, None])
    counts = np.asarray(found).sum(axis=1)
    assert counts.min() == 1 and counts.max() > 200 and len(set(counts.tolist())) == 4


def test_draw_with_min_p_0_equals_the_draw_without() -> None:
    logits = jnp.array(np.random.default_rng(0).normal(size=(64, 50)), jnp.float32)
    plain, ones = policy_of(64, 0.7, top_k=20), jnp.ones(64)
    wanted = draw(logits, plain, jnp.int32(3)).tolist()
    assert draw(logits, plain._replace(min_p=0 * ones), jnp.int32(3)).tolist() == wanted
    assert draw(logits, plain._replace(min_p=0.3 * ones), jnp.int32(3)).tolist() != wanted


def test_top_k_nucleus_and_min_p_cut_together() -> None:
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.15, 0.1, 0.05]] * 3))
    cuts = policy_of(3)._replace(
        top_k=jnp.array([2, 9, 9]),
        top_p=jnp.array([1.0, 0.8, 1.0]),
        min_p=jnp.array([0.1, 0.1, 0.7]),
    )
    kept = jnp.isfinite(policy.log_weights(logits, cuts))
    assert kept.sum(axis=1).tolist() == [2, 3, 2]


def test_scales_at_reads_the_schedule_at_every_rows_own_token() -> None:
    scales = jnp.array([[3.0, 1.2], [4.0, 1.5]])
    plain = policy_of(2)._replace(guidance=scales)
    np.testing.assert_array_equal(policy.scales_at(plain, jnp.int32(1)), scales)
    timed = plain._replace(schedule=jnp.array([[7.0, 8.0, 9.0], [17.0, 18.0, 19.0]]))
    found = policy.scales_at(timed, jnp.array([2, 0]))
    np.testing.assert_allclose(found, [[9.0, 1.2], [17.0, 1.5]])
    np.testing.assert_allclose(policy.scales_at(timed, jnp.int32(1))[:, 0], [8.0, 18.0])


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
