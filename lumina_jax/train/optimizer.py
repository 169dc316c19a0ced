"""AdamW as in arXiv 2408.02657, or Muon (optax.contrib.muon) for the matrices of small models."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from lumina_jax.checksums import leaf_name
from lumina_jax.dims import pick
from lumina_jax.experiment import OptimizerConfig
from lumina_jax.model.params import find_weights

# Weights that Muon treats as matrices, by the last name of their path: (axes summed over, axes produced).
# Counted from the back, so a leading axis of stacked layers stays a batch of matrices.
MATRICES: dict[str, MuonDimensionNumbers] = {
    "q": MuonDimensionNumbers((-3,), (-2, -1)),  # D -> N H
    "k": MuonDimensionNumbers((-3,), (-2, -1)),  # D -> K H
    "v": MuonDimensionNumbers((-3,), (-2, -1)),  # D -> K H
    "o": MuonDimensionNumbers((-3, -2), (-1,)),  # N H -> D
    "gate": MuonDimensionNumbers((-2,), (-1,)),  # D -> F
    "up": MuonDimensionNumbers((-2,), (-1,)),  # D -> F
    "down": MuonDimensionNumbers((-2,), (-1,)),  # F -> D
    "kernel": MuonDimensionNumbers((-4, -3, -2), (-1,)),  # a convolution's H W I -> O
}
# A VQGAN's first and last convolutions stay with AdamW, like an embedding and a head.
ENDS = ("conv_in", "conv_out")
MUON_RMS = 0.2  # update scale that lets Muon share AdamW's learning rates (arXiv 2502.16982)


def make_optimizer(
    config: OptimizerConfig, learning_rate: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Clip by global norm, then `config.name`'s update at `learning_rate(step)`; see `decay_labels` for `no_decay`."""
    build = pick({"adamw": _adamw, "muon": _muon}, config.name, "optimizer")
    update = build(config, learning_rate)
    if config.no_decay:
        without = build(replace(config, weight_decay=0.0), learning_rate)
        parts = {"decays": update, "stays": without}
        update = optax.partition(parts, decay_labels(config.no_decay))
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


def matrix_axes(params: Any) -> Any:
    """The tree of `MuonDimensionNumbers` of the weights Muon updates, None for AdamW's."""

    def axes(path: tuple, leaf: Any) -> MuonDimensionNumbers | None:
        names = [str(getattr(key, "key", key)) for key in path]
        numbers = MATRICES.get(names[-1])
        if numbers is None or any(name in ENDS for name in names):
            return None
        wanted = len(numbers.reduction_axis) + len(numbers.output_axis)
        return numbers if leaf.ndim >= wanted else None

    return jax.tree_util.tree_map_with_path(axes, params)


def decay_labels(no_decay: tuple[str, ...]) -> Callable[[Any], Any]:
    """A tree of weights to a tree of "decays", or "stays" where a regex of `no_decay` is found in the weight's name.

    Names are as "layers/00/attention_norm/scale", and are found by `find_weights`, which raises ValueError for a
    regex that is in no name.
    """

    def labels(params: Any) -> Any:
        stays = find_weights(params, no_decay, "optimizer.no_decay")
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "stays" if leaf_name(path) in stays else "decays", params
        )

    return labels


def _adamw(config: OptimizerConfig, learning_rate: Callable) -> optax.GradientTransformation:
    return optax.adamw(
        learning_rate,
        config.b1,
        config.b2,
        config.eps,
        mu_dtype=config.mu_dtype or None,
        weight_decay=config.weight_decay,
    )


def _muon(config: OptimizerConfig, learning_rate: Callable) -> optax.GradientTransformation:
    return muon(
        learning_rate,
        beta=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        adam_b1=config.b1,
        adam_b2=config.b2,
        adam_weight_decay=config.weight_decay,
        adam_learning_rate=lambda step: learning_rate(step) * config.adam_ratio,
        muon_weight_dimension_numbers=matrix_axes,
        consistent_rms=MUON_RMS,
        mu_dtype=config.mu_dtype or None,
    )
