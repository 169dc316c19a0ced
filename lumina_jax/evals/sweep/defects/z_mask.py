"""The z-loss under the mask of unshifted labels: the answer's own places instead of those that predict it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.evals.intervals import mean, ratio
from lumina_jax.evals.sweep.points import Point, Sweep
from lumina_jax.evals.sweep.sentences import some_examples, true_sentences
from lumina_jax.experiment import LossConfig
from lumina_jax.model.chameleon import forward
from lumina_jax.ops.losses import NOT_PREDICTED, shift_labels, token_losses

TASKS = ("text_to_image", "segmentation", "question", "edit")
BATCH = 10  # conversations of one task whose gradients are taken together
LENGTH_STEP = 64  # batches are padded to multiples of this


def unshifted_z_mask(sweep: Sweep) -> Point:
    """The share of predicted places that the unshifted mask leaves out, over conversations of several tasks.

    It takes as many others in: after every answer the place of its last token, which predicts nothing. Beside it by
    task: both z-losses, the cosine of their gradients, and by how much the gradient of the whole loss differs.
    """
    found = {task: _of_task(sweep, task) for task in TASKS}
    counts = [row.pop("counts") for row in found.values()]
    wrong, predicted = (sum(column, []) for column in zip(*counts, strict=True))
    share = ratio(wrong, predicted)
    return {
        "metric": "share of predicted places without z-loss",
        **share,
        "sentence": (
            "The unshifted mask leaves out "
            f"{_told(found['text_to_image'], 'painted')}; {_told(found['question'], 'answered in words')}."
        ),
        "tasks": found,
    }


def _told(found: dict[str, Any], how: str) -> str:
    """What the mask does to one task, in words."""
    left_out, times, cosine, whole = (
        found[name]["score"] for name in ("left_out", "z_ratio", "cosine", "whole_gradient")
    )
    return (
        f"{left_out:.1%} of the places of what is {how} (its z-loss is {times:.2f} times the true one, the gradients' "
        f"cosine {cosine:.3f}, and the gradient of the whole loss changes by {whole:.2%})"
    )


def masks(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool [B, S] each: the places that predict something, and those that the unshifted labels mark.

    Worked example: labels [-100, -100, 7, 8] predict from [., x, x, .] and mark [., ., x, x].
    """
    return np.asarray(shift_labels(jnp.asarray(labels))) >= 0, labels >= 0


def _of_task(sweep: Sweep, task: str) -> dict[str, Any]:
    asked = some_examples(task, max(BATCH, sweep.amounts.examples))
    sentences = true_sentences(sweep.model, asked)
    wrong, predicted = [], []
    for _, labels in sentences:
        right, marked = (mask[0] for mask in masks(labels[None]))
        wrong.append(int((right & ~marked).sum()))
        predicted.append(int(right.sum()))
    ordered = sorted(sentences, key=lambda each: len(each[0]))
    batches = [ordered[first : first + BATCH] for first in range(0, len(ordered), BATCH)]
    rows = [_compared(sweep, batch) for batch in batches]
    numbers = {name: mean([row[name] for row in rows]) for name in rows[0]}
    return {"left_out": ratio(wrong, predicted), **numbers, "counts": (wrong, predicted)}


def _compared(sweep: Sweep, batch: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Both z-losses of a batch and their gradients."""
    length = -(-max(len(ids) for ids, _ in batch) // LENGTH_STEP) * LENGTH_STEP
    pad_id = sweep.model.tokenizer.vocab.pad_id
    ids = np.stack([np.pad(i, (0, length - len(i)), constant_values=pad_id) for i, _ in batch])
    labels = np.stack(
        [np.pad(row, (0, length - len(row)), constant_values=NOT_PREDICTED) for _, row in batch]
    )
    config = sweep.model.config.transformer
    values, (ce, right, marked) = _gradients(sweep.model.params, ids, labels, config)
    weight = LossConfig().z_loss
    whole = jax.tree.map(lambda a, b: a + weight * b, ce, right)
    change = jax.tree.map(lambda a, b: weight * (a - b), marked, right)
    norms = optax.tree.norm(right) * optax.tree.norm(marked)
    return {
        "z_loss": float(values[1]),
        "z_loss_unshifted": float(values[2]),
        "z_ratio": float(values[2] / values[1]),
        "cosine": float(optax.tree.vdot(right, marked) / norms),
        "whole_gradient": float(optax.tree.norm(change) / optax.tree.norm(whole)),
    }


@partial(jax.jit, static_argnames="config")
def _gradients(
    params: Any, ids: Array, labels: Array, config: TransformerConfig
) -> tuple[Array, list[Any]]:
    """Cross-entropy and z-loss by the right and by the unshifted mask: values [3], and the gradient of each."""

    def losses(params: Any) -> Array:
        logits, _ = forward(params, config, ids)
        shifted = shift_labels(labels)
        right, marked = token_losses(logits, shifted), token_losses(logits, labels)
        count, marked_count = (jnp.maximum((row >= 0).sum(), 1) for row in (shifted, labels))
        z_right = right.squared_normaliser.sum() / count
        z_marked = marked.squared_normaliser.sum() / marked_count
        return jnp.stack([right.cross_entropy.sum() / count, z_right, z_marked])

    values, back = jax.vjp(losses, params)
    return values, [back(row)[0] for row in jnp.eye(3)]
