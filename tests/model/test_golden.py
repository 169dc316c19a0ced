"""The decoder against the original implementation's float32 outputs, from both release layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.convert.layouts import open_weights
from lumina_jax.convert.model_config import SourceOptions
from lumina_jax.model.chameleon import forward as eager_forward
from lumina_jax.ops.losses import cross_entropy_and_z, shift_labels

forward = jax.jit(eager_forward, static_argnames=("config", "head_slice"))
# Cross-entropy and z-loss by transformers 4.57.6's Chameleon on torch 2.13, CPU, float32, of the same batch.
TRANSFORMERS_LOSSES = {
    "tiny_7b": (12.690963745117188, 166.78628540039062),
    "tiny_34b": (12.80691909790039, 163.32757568359375),
}


def load(folder):
    """Config and weights of a release, in float32."""
    weights = open_weights(folder, SourceOptions(compute_dtype="float32"))
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), weights.tree("transformer"))
    return weights.config.transformer, params


@pytest.mark.parametrize("release", ["meta", "hf"])
def test_logits_equal_the_originals(golden, golden_release, release):
    """Within 1e-4 at five positions of two sequences; logits reach 11."""
    config, params = load(golden_release(release))
    logits, _ = forward(params, config, jnp.asarray(golden["logits_ids"], jnp.int32))
    np.testing.assert_allclose(logits[:, [0, 9, 18, 27, 36]], golden["logits"], rtol=0, atol=1e-4)


def test_losses_equal_the_originals(golden, golden_release):
    """Cross-entropy and z-loss of a conversation and its right-padded beginning."""
    config, params = load(golden_release("hf"))
    ids, labels = np.zeros((2, 108), np.int32), np.full((2, 108), -100, np.int32)
    for row, length in enumerate((108, 90)):
        ids[row, :length] = golden["conv_ids"][:length]
        labels[row, :length] = golden["conv_labels"][:length]
    logits, _ = forward(params, config, jnp.asarray(ids))
    shifted = shift_labels(jnp.asarray(labels))
    got = cross_entropy_and_z(logits, shifted)
    assert int(got.num_predicted) == 99
    cross_entropy, z_loss = TRANSFORMERS_LOSSES[golden.name]
    np.testing.assert_allclose(got.cross_entropy, cross_entropy, rtol=1e-6)
    np.testing.assert_allclose(got.z_loss, z_loss, rtol=1e-6)
    # The stored losses lie up to 4e-5 (cross-entropy) and 1.8e-5 (z) beside both implementations' float32.
    exact_ce, exact_z = losses_in_float64(np.asarray(logits, np.float64), np.asarray(shifted))
    np.testing.assert_allclose(got.cross_entropy, exact_ce, rtol=1e-6)
    np.testing.assert_allclose(got.z_loss, exact_z, rtol=1e-6)
    np.testing.assert_allclose(got.cross_entropy, golden["closs"], rtol=5e-5)
    np.testing.assert_allclose(got.z_loss, golden["zloss"], rtol=2e-5)


def losses_in_float64(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Cross-entropy and mean squared logsumexp over labels that are not negative, by numpy."""
    rows = labels >= 0
    normaliser = np.log(np.exp(logits[rows]).sum(-1))
    chosen = np.take_along_axis(logits[rows], labels[rows][:, None], -1)[:, 0]
    return float((normaliser - chosen).mean()), float((normaliser**2).mean())
