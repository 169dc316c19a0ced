"""The transformer's training step: a pure function (state, batch, key) -> (state, metrics)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lumina_jax.config import ModelConfig
from lumina_jax.dims import Array, Float, Int, typed
from lumina_jax.experiment import LossConfig
from lumina_jax.model.chameleon import hidden_states, logits_from_hidden
from lumina_jax.ops.losses import cross_entropy_and_z, loss_from_hidden, shift_labels
from lumina_jax.sharding import Layout

Batch = Mapping[str, Any]
Metrics = dict[str, Any]
Step = Callable[["State", Batch, Any], tuple["State", Metrics]]


class State(NamedTuple):
    """Everything a step carries and a checkpoint keeps. Random keys are not in it: they are fold_in(seed, step)."""

    step: Any  # int32 scalar: optimiser steps done
    params: Any
    opt_state: Any
    ema: Any = None  # exponential average of the params, None when it is off


def init_state(
    params: Any, optimizer: optax.GradientTransformation, ema_decay: float = 0.0
) -> State:
    """The state before the first step."""
    ema = jax.tree.map(jnp.copy, params) if ema_decay > 0 else None
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema)


def make_train_step(
    model: ModelConfig,
    loss: LossConfig,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.0,
    layout: Layout | None = None,
    packed: bool = False,
) -> Step:
    """The step for batches {"tokens", "labels", "segment_ids", "positions"}, each int32[B,S].

    `labels` stand at their own token's position (-100: not predicted); the step shifts them, within segments.
    `packed`: rows hold several segments that must not see each other. A row of one segment padded on the right
    needs no such mask, causality hides the padding, and the fastest attention kernels take no mask.
    Metrics: loss, ce, z, tokens (predicted), grad_norm, and accuracy unless the loss is computed in chunks.
    """
    config = model.transformer

    def objective(params: Any, batch: Batch, key: Any) -> tuple[Array, Metrics]:
        hidden, _ = hidden_states(
            params,
            config,
            batch["tokens"],
            batch["positions"],
            segment_ids=batch["segment_ids"] if packed else None,
            dropout_key=key if config.dropout > 0 else None,
            layout=layout,
        )
        labels = shift_labels(batch["labels"], batch["segment_ids"])
        metrics = {}
        if loss.logits_chunk:
            head = params["head"]["table"].astype(config.compute_dtype)
            ce, z, tokens = loss_from_hidden(hidden, head, labels, loss.logits_chunk)
        else:
            logits = logits_from_hidden(params, config, hidden, layout=layout)
            ce, z, tokens = cross_entropy_and_z(logits, labels)
            metrics["accuracy"] = accuracy(logits, labels)
        total = ce + loss.z_loss * z
        return total, {**metrics, "loss": total, "ce": ce, "z": z, "tokens": tokens}

    def step(state: State, batch: Batch, key: Any) -> tuple[State, Metrics]:
        gradient, metrics = jax.grad(objective, has_aux=True)(state.params, batch, key)
        state, grad_norm = apply_gradient(state, gradient, optimizer, ema_decay)
        return state, {**metrics, "grad_norm": grad_norm}

    return step


@typed
def accuracy(logits: Float[Array, "B S V"], labels: Int[Array, "B S"]) -> Float[Array, ""]:
    """Share of predicted positions whose most probable token is the label; 0 where nothing is predicted."""
    predicted = labels >= 0
    right = jnp.sum(predicted & (logits.argmax(-1) == labels))
    return right / jnp.maximum(predicted.sum(), 1)


def apply_gradient(
    state: State, gradient: Any, optimizer: optax.GradientTransformation, ema_decay: float
) -> tuple[State, Array]:
    """One optimiser update; also the gradient's global norm before clipping."""
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = average(state.ema, params, ema_decay, state.step) if ema_decay > 0 else state.ema
    state = State(state.step + 1, params, opt_state, ema)
    return state, optax.tree.norm(gradient)


def average(ema: Any, params: Any, decay: float, step: Any) -> Any:
    """The exponential average, with a shorter memory in the first steps: min(decay, (1 + n) / (10 + n))."""
    count = jnp.asarray(step, jnp.float32)
    rate = 1.0 - jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda old, new: old + rate * (new - old), ema, params)
