"""The terms of the VQGAN's objective."""

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.experiment import VQGANLossConfig
from lumina_jax.vqgan.codec import Reconstruction
from lumina_jax.vqgan.discriminator import init_discriminator, realness
from lumina_jax.vqgan.losses import edge_loss, hinge_losses, psnr_db, reconstruction_losses


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_edge_loss_ignores_a_constant_and_sees_an_outline():
    target = normal(1, 4, 5, 3)
    np.testing.assert_allclose(edge_loss(target + 0.5, target), 0, atol=1e-6)
    step = jnp.zeros((1, 4, 5, 3)).at[:, :, 2:].set(1.0)
    np.testing.assert_allclose(edge_loss(target + step, target), 1 / 4, rtol=1e-5)


def test_loss_is_the_weighted_sum_of_its_terms():
    target = normal(2, 4, 4, 3)
    result = Reconstruction(
        target + 0.5, normal(2, 1, 1, 3), jnp.zeros((2, 1, 1, 3)), jnp.zeros((2, 1, 1), int)
    )
    config = VQGANLossConfig(l1=1, l2=10, edge=100, commitment=1000)
    loss, terms = reconstruction_losses(result, target, config)
    np.testing.assert_allclose(terms["l1"], 0.5, rtol=1e-5)
    np.testing.assert_allclose(terms["l2"], 0.25, rtol=1e-5)
    np.testing.assert_allclose(terms["commitment"], jnp.square(result.encodings).mean(), rtol=1e-5)
    expected = 0.5 + 2.5 + 100 * terms["edge"] + 1000 * terms["commitment"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_psnr_of_a_known_error():
    target = jnp.zeros((1, 2, 2, 3))
    np.testing.assert_allclose(psnr_db(target + 0.02, target), 40, rtol=1e-5)  # peak 2, error 0.02
    np.testing.assert_allclose(psnr_db(target + 9, target), psnr_db(target + 1, target))


def test_hinge_loss_is_zero_beyond_the_margin():
    assert float(hinge_losses(jnp.asarray([1.5]), jnp.asarray([-2.0]))) == 0
    np.testing.assert_allclose(hinge_losses(jnp.zeros(3), jnp.zeros(5)), 1)


def test_discriminator_judges_patches_of_each_image_alone():
    params = init_discriminator(jax.random.key(0))
    pixels = normal(2, 16, 24, 3)
    logits = realness(params, pixels)
    assert logits.shape == (2, 2, 3)
    np.testing.assert_allclose(logits[:1], realness(params, pixels[:1]), atol=1e-5)
