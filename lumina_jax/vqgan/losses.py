"""The VQGAN's objective: pixels, outlines, commitment, and hinge losses for an optional discriminator.

No term needs a downloaded network: where taming-transformers uses LPIPS, finite differences sharpen outlines.
"""

import jax
import jax.numpy as jnp

from lumina_jax.dims import Array, Float, typed
from lumina_jax.experiment import VQGANLossConfig
from lumina_jax.vqgan.codec import Reconstruction


@typed
def edge_loss(output: Float[Array, "B Y X C"], target: Float[Array, "B Y X C"]) -> Float[Array, ""]:
    """Mean absolute error between the differences of neighbouring pixels, down and across."""
    error = output - target
    return jnp.abs(jnp.diff(error, axis=1)).mean() + jnp.abs(jnp.diff(error, axis=2)).mean()


@typed
def reconstruction_losses(
    result: Reconstruction, target: Float[Array, "B Y X 3"], config: VQGANLossConfig
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The weighted sum of all terms but the adversarial one, and each term by name, unweighted."""
    error = result.pixels - target
    commitment = result.encodings - jax.lax.stop_gradient(result.quantised)
    terms = {
        "l1": jnp.abs(error).mean(),
        "l2": jnp.square(error).mean(),
        "edge": edge_loss(result.pixels, target),
        "commitment": jnp.square(commitment).mean(),
    }
    weighted = jnp.stack([getattr(config, name) * term for name, term in terms.items()])
    return weighted.sum(), terms


@typed
def psnr_db(output: Float[Array, "B Y X C"], target: Float[Array, "B Y X C"]) -> Float[Array, ""]:
    """Peak signal-to-noise ratio of the whole batch in dB, for pixels in [-1, 1]."""
    mean_square = jnp.square(jnp.clip(output, -1, 1) - target).mean()
    return 10 * jnp.log10(4 / jnp.maximum(mean_square, 1e-12))


@typed
def hinge_losses(
    real_logits: Float[Array, "*R"], fake_logits: Float[Array, "*F"]
) -> Float[Array, ""]:
    """The discriminator's hinge loss, as in taming-transformers."""
    return 0.5 * (jax.nn.relu(1 - real_logits).mean() + jax.nn.relu(1 + fake_logits).mean())
