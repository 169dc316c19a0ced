"""The decoder against the original implementation's float32 outputs, from both release layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.convert.transformer import load_hf, load_meta
from lumina_jax.model.chameleon import forward as eager_forward
from lumina_jax.ops.losses import cross_entropy_and_z, shift_labels

forward = jax.jit(eager_forward, static_argnames=("config", "head_slice"))
LOADERS = {"meta": load_meta, "hf": load_hf}


@pytest.mark.parametrize("release", LOADERS)
def test_logits_equal_the_originals(golden, golden_release, release):
    """Within 1e-4 at five positions of two sequences; logits reach 11."""
    config, params = LOADERS[release](golden_release(release), dtype="float32")
    logits, _ = forward(params, config, jnp.asarray(golden["logits_ids"], jnp.int32))
    np.testing.assert_allclose(logits[:, [0, 9, 18, 27, 36]], golden["logits"], rtol=0, atol=1e-4)


def test_losses_equal_the_originals(golden, golden_release):
    """Cross-entropy and z-loss of a conversation and its right-padded beginning."""
    config, params = load_hf(golden_release("hf"), dtype="float32")
    ids, labels = np.zeros((2, 108), np.int32), np.full((2, 108), -100, np.int32)
    for row, length in enumerate((108, 90)):
        ids[row, :length] = golden["conv_ids"][:length]
        labels[row, :length] = golden["conv_labels"][:length]
    logits, _ = forward(params, config, jnp.asarray(ids))
    got = cross_entropy_and_z(logits, shift_labels(jnp.asarray(labels)))
    assert int(got.num_predicted) == 99
    # The stored losses carry about 4e-5 of rounding that the stored logits (equal within 1e-5) do not.
    np.testing.assert_allclose(got.cross_entropy, golden["closs"], rtol=5e-5)
    np.testing.assert_allclose(got.z_loss, golden["zloss"], rtol=5e-5)
