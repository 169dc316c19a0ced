"""The transformer's training step: a pure function (state, batch, key) -> (state, metrics)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lumina_jax.config import ModelConfig
from lumina_jax.dims import Array
from lumina_jax.experiment import LossConfig
from lumina_jax.model.chameleon import hidden_states, logits_from_hidden
from lumina_jax.ops.losses import (
    TokenLosses,
    shift_labels,
    token_losses,
    token_losses_from_hidden,
)
from lumina_jax.sharding import Layout, constrain, gathered, letter_ways
from lumina_jax.unirep.kinds import AREAS_PX, TASK_NAMES

Batch = Mapping[str, Any]
Metrics = dict[str, Any]
Step = Callable[["State", Batch, Any], tuple["State", Metrics]]
# (trained weights, frozen weights, dropout's key) -> the weights of a forward pass
Assemble = Callable[[Any, Any, Any], Any]
IMAGE, TEXT = 0, 1  # places in the metric "by_modality"


class State(NamedTuple):
    """Everything a step carries and a checkpoint keeps. Random keys are not in it: they are fold_in(seed, step)."""

    step: Any  # int32 scalar: optimiser steps done
    params: Any  # what is trained
    opt_state: Any
    ema: Any = None  # exponential average of the params, None when it is off
    frozen: Any = None  # weights that stay as they are, None where all are trained


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.0,
    frozen: Any = None,
) -> State:
    """The state before the first step."""
    ema = jax.tree.map(jnp.copy, params) if ema_decay > 0 else None
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema, frozen)


def trained_alone(params: Any, frozen: Any, key: Any) -> Any:
    """The `Assemble` of a run that trains all weights."""
    return params


def make_train_step(
    model: ModelConfig,
    loss: LossConfig,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.0,
    layout: Layout | None = None,
    packed: bool = False,
    *,
    accumulation: int = 1,
    image_codes: tuple[int, int] | None = None,
    assemble: Assemble = trained_alone,
) -> Step:
    """The step for batches {"tokens", "labels", "segment_ids", "positions"}, each int32[B,S].

    `labels` stand at their own token's position (-100: not predicted); the step shifts them, within segments.
    `packed`: rows hold several segments that must not see each other. A row of one segment padded on the right
    needs no such mask, causality hides the padding, and the fastest attention kernels take no mask. `accumulation`:
    how many micro-batches, one after the other, make the gradient of the batch. Metrics: loss, ce, z, tokens
    (predicted), grad_norm, and accuracy unless the loss is computed in chunks; and those of `loss_sums` by kind.
    """
    config = model.transformer

    def objective(
        params: Any, frozen: Any, batch: Batch, key: Any, count: Array
    ) -> tuple[Array, Metrics]:
        """This batch's part of a loss that is a mean over `count` tokens; sums for the metrics."""
        weights = assemble(params, frozen, key)
        hidden, _ = hidden_states(
            weights,
            config,
            batch["tokens"],
            batch["positions"],
            segment_ids=batch["segment_ids"] if packed else None,
            dropout_key=key if config.dropout > 0 else None,
            layout=layout,
        )
        labels = shift_labels(batch["labels"], batch["segment_ids"])
        losses, sums = _losses(weights, model, hidden, labels, loss.logits_chunk, layout)
        sums |= loss_sums(losses, labels, batch, image_codes)
        return (sums["ce"] + loss.z_loss * sums["z"]) / count, sums

    def step(state: State, batch: Batch, key: Any) -> tuple[State, Metrics]:
        labels = shift_labels(batch["labels"], batch["segment_ids"])
        num_predicted = jnp.maximum(jnp.sum(labels >= 0), 1)

        def gradient_of(part: Batch, key: Any) -> tuple[Any, Metrics]:
            graded = jax.grad(objective, has_aux=True)
            return graded(state.params, state.frozen, part, key, num_predicted)

        gradient, sums = accumulated(gradient_of, batch, key, accumulation, layout)
        state, grad_norm = apply_gradient(state, gradient, optimizer, ema_decay)
        return state, {**means(sums, num_predicted, loss.z_loss), "grad_norm": grad_norm}

    return step


def _losses(
    weights: Any,
    model: ModelConfig,
    hidden: Array,
    labels: Array,
    chunk: int,
    layout: Layout | None,
) -> tuple[TokenLosses, Metrics]:
    """Losses by token, by `chunk` entries of the vocabulary or, with 0, at once; then the sum "right" too."""
    if chunk:
        head, split = weights["head"]["table"], letter_ways("V", layout)
        place = partial(_place, layout=layout)
        return token_losses_from_hidden(hidden, head, labels, chunk, split=split, place=place), {}
    logits = logits_from_hidden(weights, model.transformer, hidden, layout=layout)
    return token_losses(logits, labels), {"right": num_right(logits, labels)}


def _place(x: Array, letters: str, role: str, layout: Layout | None) -> Array:
    """The `Place` of a mesh: what is gathered is gathered from, and its gradient scattered to, where it is stored."""
    if role == "gathered":
        return gathered(x, letters, layout)
    return constrain(x, letters, layout, role)


def accumulated(
    gradient_of: Callable[[Batch, Any], tuple[Any, Metrics]],
    batch: Batch,
    key: Any,
    count: int,
    layout: Layout | None = None,
) -> tuple[Any, Metrics]:
    """The sums, float32, of (gradient, sums) over `count` micro-batches, each with a key of its own.

    Micro-batch i takes rows i, i + count, …: of every device its own, so that no row moves. Gradients come in the
    dtypes of one micro-batch's.
    """
    if count == 1:
        return gradient_of(batch, key)
    parts = {
        name: jnp.moveaxis(rows.reshape(-1, count, *rows.shape[1:]), 1, 0)
        for name, rows in batch.items()
    }

    def part_of(index: Any) -> tuple[Any, Metrics]:
        part = {name: constrain(rows[index], "B S", layout) for name, rows in parts.items()}
        return gradient_of(part, jax.random.fold_in(key, index))

    kinds = jax.eval_shape(part_of, 0)
    start = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), kinds
    )

    def add(total: Any, index: Any) -> tuple[Any, None]:
        return jax.tree.map(lambda old, new: old + new, total, part_of(index)), None

    total, _ = jax.lax.scan(add, start, jnp.arange(count))
    return jax.tree.map(lambda leaf, kind: leaf.astype(kind.dtype), total, kinds)


def loss_sums(
    losses: TokenLosses, labels: Array, batch: Batch, image_codes: tuple[int, int] | None
) -> Metrics:
    """Sums over a batch: "ce", "z", "tokens"; and sums of cross-entropy with counts by kind, float32[2, kinds].

    "by_modality" with `image_codes` (first id, how many), "by_task" and "by_area" where the batch has "tasks" and
    "areas", indices of `unirep.kinds` by token.
    """
    predicted = labels >= 0
    ce, z = losses
    sums: Metrics = {"ce": ce.sum(), "z": z.sum(), "tokens": predicted.sum(dtype=jnp.int32)}
    kinds: dict[str, tuple[Array, int]] = {}
    if image_codes is not None:
        first, count = image_codes
        is_code = (labels >= first) & (labels < first + count)
        kinds["by_modality"] = jnp.where(is_code, IMAGE, TEXT), 2
    for name, number in (("tasks", len(TASK_NAMES)), ("areas", len(AREAS_PX))):
        if name in batch:
            kinds[f"by_{name[:-1]}"] = batch[name], number
    for name, (kind, number) in kinds.items():
        # masked sums: the scatter of a segment_sum adds in no fixed order on GPUs
        chosen = kind == jnp.arange(number)[:, None, None]
        ones = predicted.astype(jnp.float32)
        sums[name] = jnp.stack([jnp.where(chosen, of, 0.0).sum((1, 2)) for of in (ce, ones)])
    return sums


def means(sums: Metrics, num_predicted: Array, z_weight: float) -> Metrics:
    """The metrics of a step's sums."""
    metrics = {name: sums[name] for name in sums if name.startswith("by_")}
    ce, z = sums["ce"] / num_predicted, sums["z"] / num_predicted
    if "right" in sums:
        metrics["accuracy"] = sums["right"] / num_predicted
    return {**metrics, "loss": ce + z_weight * z, "ce": ce, "z": z, "tokens": sums["tokens"]}


def num_right(logits: Array, labels: Array) -> Array:
    """How many predicted positions have the label as their most probable token."""
    return jnp.sum((labels >= 0) & (logits.argmax(-1) == labels))


def apply_gradient(
    state: State, gradient: Any, optimizer: optax.GradientTransformation, ema_decay: float
) -> tuple[State, Array]:
    """One optimiser update; also the gradient's global norm before clipping."""
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = average(state.ema, params, ema_decay, state.step) if ema_decay > 0 else state.ema
    state = State(state.step + 1, params, opt_state, ema, state.frozen)
    return state, optax.tree.norm(gradient)


def average(ema: Any, params: Any, decay: float, step: Any) -> Any:
    """The exponential average, with a shorter memory in the first steps: min(decay, (1 + n) / (10 + n))."""
    count = jnp.asarray(step, jnp.float32)
    rate = 1.0 - jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda old, new: old + rate * (new - old), ema, params)
