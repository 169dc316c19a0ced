"""Cross-entropy, z-loss and their chunked form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.experiment import LossConfig
from lumina_jax.ops.losses import (
    cross_entropy_and_z,
    loss_from_hidden,
    shift_labels,
    token_losses,
    token_losses_from_hidden,
)


def test_shift_labels_moves_left():
    """The last position predicts nothing."""
    got = shift_labels(jnp.array([[-100, 7, 8, 9], [4, -100, 5, 6]]))
    assert got.tolist() == [[7, 8, 9, -100], [-100, 5, 6, -100]]


def test_shift_labels_never_crosses_segments():
    """The last token of segment 1 does not predict the first of segment 2."""
    got = shift_labels(jnp.array([[1, 2, 3, 4]]), jnp.array([[1, 1, 2, 2]]))
    assert got.tolist() == [[2, -100, 4, -100]]


def test_losses_are_means_over_predicted_positions():
    """float64 sums over three of four positions; label 0 is a label like any other."""
    logits = np.random.default_rng(0).normal(size=(2, 2, 5)) * 3
    labels = np.array([[0, -100], [4, 2]])
    normaliser = np.log(np.exp(logits).sum(-1))
    chosen = [(0, 0), (1, 0), (1, 1)]
    want_ce = np.mean([normaliser[i] - logits[i][labels[i]] for i in chosen])
    want_z = np.mean([normaliser[i] ** 2 for i in chosen])
    got = cross_entropy_and_z(jnp.float32(logits), jnp.asarray(labels))
    np.testing.assert_allclose(got.cross_entropy, want_ce, rtol=1e-5)
    np.testing.assert_allclose(got.z_loss, want_z, rtol=1e-5)
    assert int(got.num_predicted) == 3


def test_losses_of_nothing_predicted_are_zero():
    """No division by zero, in value and gradient."""
    labels = jnp.full((1, 3), -100)
    loss, gradient = jax.value_and_grad(lambda x: sum(cross_entropy_and_z(x, labels)[:2]))(
        jnp.ones((1, 3, 4))
    )
    assert float(loss) == 0.0
    assert float(jnp.abs(gradient).max()) == 0.0


@pytest.mark.parametrize("chunk", [1, 3, 7, 16])
def test_loss_from_hidden_equals_plain(chunk):
    """Same values and gradients, also where the chunk does not divide S = 7."""
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (2, 7, 5))
    head = jax.random.normal(keys[1], (11, 5))
    labels = jax.random.randint(keys[2], (2, 7), -3, 11)

    def plain(hidden, head):
        losses = cross_entropy_and_z(jnp.einsum("BSD,VD->BSV", hidden, head), labels)
        return losses.cross_entropy + 0.1 * losses.z_loss, losses

    def chunked(hidden, head):
        losses = loss_from_hidden(hidden, head, labels, chunk)
        return losses.cross_entropy + 0.1 * losses.z_loss, losses

    want, want_gradients = jax.value_and_grad(plain, argnums=(0, 1), has_aux=True)(hidden, head)
    got, got_gradients = jax.value_and_grad(chunked, argnums=(0, 1), has_aux=True)(hidden, head)
    for a, b in zip(
        jax.tree.leaves((got, got_gradients)), jax.tree.leaves((want, want_gradients)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_loss_from_hidden_never_holds_all_logits():
    """No array as large as [B, S, V] in the gradient's program."""
    hidden, head = jnp.zeros((2, 64, 8)), jnp.zeros((50, 8))
    labels = jnp.zeros((2, 64), jnp.int32)
    gradient = jax.grad(lambda h, w: loss_from_hidden(h, w, labels, 16).cross_entropy, (0, 1))
    sizes = [
        variable.aval.size
        for equation in _equations(jax.make_jaxpr(gradient)(hidden, head).jaxpr)
        for variable in equation.outvars
    ]
    assert max(sizes) < 2 * 64 * 50


def test_loss_equals_the_originals_written_out_in_numpy():
    """Position by position: labels under their predictors, z-loss at 1e-5 over the same positions [L]."""
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(3, 9, 13)) * 4, rng.integers(0, 13, (3, 9))
    labels = np.where(rng.random((3, 9)) < 0.6, tokens, -100)
    segments = np.array([[1] * 9, [1] * 4 + [2] * 5, [1] * 6 + [0] * 3])
    total, count = 0.0, 0
    for row in range(3):
        for place in range(8):
            label = labels[row, place + 1]
            if label >= 0 and segments[row, place] == segments[row, place + 1]:
                normaliser = np.log(np.exp(logits[row, place]).sum())
                total += normaliser - logits[row, place, label] + 1e-5 * normaliser**2
                count += 1
    shifted = shift_labels(jnp.asarray(labels), jnp.asarray(segments))
    got = cross_entropy_and_z(jnp.float32(logits), shifted)
    assert int(got.num_predicted) == count
    weight = LossConfig().z_loss
    np.testing.assert_allclose(got.cross_entropy + weight * got.z_loss, total / count, rtol=1e-6)


@pytest.mark.parametrize("chunk", [3, 16])
def test_chunked_losses_stand_at_their_own_tokens(chunk):
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, head = jax.random.normal(keys[0], (2, 7, 5)), jax.random.normal(keys[1], (11, 5))
    labels = jax.random.randint(keys[2], (2, 7), -3, 11)
    want = token_losses(jnp.einsum("BSD,VD->BSV", hidden, head), labels)
    got = token_losses_from_hidden(hidden, head, labels, chunk)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_chunked_loss_of_a_large_vocabulary_needs_an_eighth_of_the_memory():
    """One step's loss and gradient at V = 65,536 and S = 4096, by the compiler's own account."""
    shapes = ((1, 4096, 8), (65_536, 8))
    hidden, head = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    labels = jax.ShapeDtypeStruct((1, 4096), jnp.int32)

    def whole(hidden, head, labels):
        logits = jnp.einsum("BSD,VD->BSV", hidden, head)
        losses = cross_entropy_and_z(logits, labels)
        return losses.cross_entropy + 1e-5 * losses.z_loss

    def chunked(hidden, head, labels):
        losses = loss_from_hidden(hidden, head, labels, 256)
        return losses.cross_entropy + 1e-5 * losses.z_loss

    needed = []
    for function in (whole, chunked):
        compiled = jax.jit(jax.value_and_grad(function, (0, 1))).lower(hidden, head, labels)
        memory = compiled.compile().memory_analysis()
        assert memory is not None
        needed.append(memory.temp_size_in_bytes / 2**20)
    print(f"temporary memory: whole {needed[0]:.0f} MiB, chunks of 256 {needed[1]:.0f} MiB")
    assert needed[0] > 1024 and needed[1] < needed[0] / 8


def _equations(jaxpr):
    """Every equation of a jaxpr and of those nested in it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)
