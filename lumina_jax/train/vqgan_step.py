"""One training step of the VQGAN as a pure function: (state, batch, key) -> (state, metrics).

The codebook is not trained by gradients but follows the encoder by moving averages; a patch discriminator joins
at a set step when its weight is not 0. Under `jit` with a sharded batch every average is over the global batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lumina_jax.config import VQGANConfig
from lumina_jax.dims import Array
from lumina_jax.experiment import TrainConfig, VQGANLossConfig
from lumina_jax.vqgan.codec import Reconstruction, from_pixels, init_vqgan, reconstruct
from lumina_jax.vqgan.discriminator import init_discriminator, realness
from lumina_jax.vqgan.losses import hinge_losses, psnr_db, reconstruction_losses
from lumina_jax.vqgan.quantise import (
    Codebook,
    init_codebook,
    normalise,
    perplexity,
    update_codebook,
)

Tree = Any
Batch = Mapping[str, Array]  # {"pixels": uint8 [B, Y, X, 3]}
Metrics = dict[str, Array]


class VQGANState(NamedTuple):
    """Everything a resumed run needs; every leaf is an array."""

    step: Array  # [] int32, steps done
    params: Tree  # as `vqgan.codec.init_vqgan`
    opt_state: Tree  # of the parameters but the codebook
    ema: Tree  # average of `params`, None when not kept
    codebook: Codebook  # moving averages behind params["quantize"]
    discriminator: Tree  # its parameters, None without the adversarial loss
    discriminator_opt_state: Tree


def init_vqgan_state(
    config: VQGANConfig,
    train_config: TrainConfig,
    key: Array,
    tx: optax.GradientTransformation,
) -> VQGANState:
    """The state before the first step; `tx` trains the networks and the discriminator alike."""
    params_key, discriminator_key = jax.random.split(key)
    params = init_vqgan(config, params_key)
    adversary = (
        init_discriminator(discriminator_key) if train_config.vqgan_loss.adversarial else None
    )
    return VQGANState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(trainable(params)),
        ema=jax.tree.map(jnp.copy, params) if train_config.optimizer.ema_decay else None,
        codebook=init_codebook(config.num_codes, config.code_width),
        discriminator=adversary,
        discriminator_opt_state=None if adversary is None else tx.init(adversary),
    )


def trainable(params: Tree) -> Tree:
    """The parameters that gradients train: all but the codebook."""
    return {name: tree for name, tree in params.items() if name != "quantize"}


def released_params(state: VQGANState) -> Tree:
    """The parameters to keep: the averaged networks where they are kept, with the current codebook."""
    return (
        state.params if state.ema is None else {**state.ema, "quantize": state.params["quantize"]}
    )


def make_vqgan_step(
    config: VQGANConfig,
    loss_config: VQGANLossConfig,
    tx: optax.GradientTransformation,
    *,
    ema_decay: float = 0.0,
    precision: jax.lax.Precision | None = None,
) -> Callable[[VQGANState, Batch, Array], tuple[VQGANState, Metrics]]:
    """The step to jit. Metrics are scalars: the loss and its terms, `psnr` in dB of the batch, `perplexity`
    (codes the batch uses), `usage` (share of codes in use over recent batches), `restarts` (codes re-seeded).
    """

    def step(state: VQGANState, batch: Batch, key: Array) -> tuple[VQGANState, Metrics]:
        target = from_pixels(batch["pixels"])
        dropout_key, restart_key = jax.random.split(key)

        def loss_of(weights: Tree) -> tuple[Array, tuple[Reconstruction, Metrics]]:
            params = {**weights, "quantize": state.params["quantize"]}
            keys = {"dropout_key": dropout_key} if config.dropout else {}
            result = reconstruct(params, config, target, precision=precision, **keys)
            loss, metrics = reconstruction_losses(result, target, loss_config)
            if state.discriminator is not None:
                metrics["adversarial"] = _adversarial_loss(state, result.pixels, loss_config)
                loss = loss + loss_config.adversarial * metrics["adversarial"]
            return loss, (result, metrics)

        weights = trainable(state.params)
        gradients, (result, metrics) = jax.grad(loss_of, has_aux=True)(weights)
        updates, opt_state = tx.update(gradients, state.opt_state, weights)
        weights = optax.apply_updates(weights, updates)
        codebook, embedding, code_metrics = _follow(config, loss_config, state, result, restart_key)
        params = {**weights, "quantize": {"embedding": embedding}}
        state = state._replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema=_average(state.ema, params, state.step, ema_decay),
            codebook=codebook,
        )
        state, adversary_metrics = _train_discriminator(state, result, target, loss_config, tx)
        metrics |= code_metrics | adversary_metrics
        metrics["loss"] = sum(
            getattr(loss_config, name) * metrics[name]
            for name in ("l1", "l2", "edge", "commitment", "adversarial")
            if name in metrics
        )
        metrics["psnr"] = psnr_db(result.pixels, target)
        metrics["grad_norm"] = optax.tree.norm(gradients)
        return state, metrics

    return step


def _follow(
    config: VQGANConfig,
    loss_config: VQGANLossConfig,
    state: VQGANState,
    result: Reconstruction,
    key: Array,
) -> tuple[Codebook, Array, Metrics]:
    """Move the codebook towards the batch; also says how well it is used."""
    encodings = jax.lax.stop_gradient(result.encodings).reshape(-1, config.code_width)
    codes = result.codes.reshape(-1)
    codebook, embedding, restarted = update_codebook(
        state.codebook,
        encodings,
        codes,
        key,
        decay=loss_config.codebook_decay,
        restart_below=loss_config.restart_below,
    )
    metrics = {
        "perplexity": perplexity(codes, config.num_codes),
        "usage": 1 - restarted.mean(),
        "restarts": restarted.sum(),
    }
    return codebook, normalise(embedding) if config.normalise_codes else embedding, metrics


def _average(ema: Tree, params: Tree, step: Array, decay: float) -> Tree:
    """Exponential moving average that starts fast: decay min(decay, (1 + step) / (10 + step))."""
    if ema is None:
        return None
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda mean, new: mean + rate * (new - mean), ema, params)


def _adversarial_loss(state: VQGANState, pixels: Array, loss_config: VQGANLossConfig) -> Array:
    """How fake the output looks, 0 until the discriminator is on."""
    return jax.lax.cond(
        state.step >= loss_config.adversarial_start,
        lambda output: -realness(state.discriminator, output).mean(),
        lambda output: jnp.zeros(()),
        pixels,
    )


def _train_discriminator(
    state: VQGANState,
    result: Reconstruction,
    target: Array,
    loss_config: VQGANLossConfig,
    tx: optax.GradientTransformation,
) -> tuple[VQGANState, Metrics]:
    """One step of the discriminator on the batch and its reconstruction, skipped until it is on."""
    if state.discriminator is None:
        return state, {}
    fake = jax.lax.stop_gradient(result.pixels)

    def loss_of(params: Tree) -> Array:
        return hinge_losses(realness(params, target), realness(params, fake))

    def update(params: Tree, opt_state: Tree) -> tuple[Tree, Tree, Array]:
        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    params, opt_state, loss = jax.lax.cond(
        state.step > loss_config.adversarial_start,
        update,
        lambda params, opt_state: (params, opt_state, jnp.zeros(())),
        state.discriminator,
        state.discriminator_opt_state,
    )
    state = state._replace(discriminator=params, discriminator_opt_state=opt_state)
    return state, {"discriminator": loss}
