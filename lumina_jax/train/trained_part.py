"""Which part of a model a run trains: all its weights, those whose names a regex finds, or adapters beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lumina_jax.checkpoint import digest
from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import LoraConfig, TrainConfig
from lumina_jax.model.lora import adapted, adapter_letters, init_adapters, merge
from lumina_jax.model.params import Params, abstract_params, find_weights, param_letters
from lumina_jax.sharding import Layout, param_shardings, state_shardings
from lumina_jax.train.step import Assemble, State, trained_alone


class TrainedPart(NamedTuple):
    """How the weights of a model become a state's `params` and `frozen`, and back."""

    divide: Callable[
        [Params, Any], tuple[Any, Any]
    ]  # (weights, the run's first key) -> (trained, frozen); pure
    assemble: Assemble  # for a forward pass
    merged: Callable[[Any, Any], Params]  # (trained, frozen) -> plain weights
    shardings: Callable[[State, Layout], State]  # of an abstract state
    adapts: bool = False  # adapters: the frozen weights are those of --init and in no checkpoint


def trained_part(train: TrainConfig, config: TransformerConfig) -> TrainedPart:
    """The part that `train.lora` or `train.trainable` name; ValueError for a regex that finds nothing."""
    if train.lora is not None:
        return _adapters(train.lora, config)
    letters = param_letters(config)

    def shardings(state: State, layout: Layout) -> State:
        return state_shardings(state, letters, layout)

    if not train.trainable:
        return TrainedPart(
            lambda weights, key: (weights, None),
            trained_alone,
            lambda trained, frozen: trained,
            shardings,
        )
    chosen = find_weights(abstract_params(config), train.trainable, "train.trainable")
    return TrainedPart(
        lambda weights, key: divided(weights, chosen),
        lambda trained, frozen, key: joined(trained, frozen),
        joined,
        shardings,
    )


def base_digest(init: str | Path | None) -> dict[str, str]:
    """The digest of the weights that adapters stand beside, as `made_with` remembers it."""
    if init is None:
        raise ValueError(
            "train.lora adapts the weights of a model checkpoint, which no checkpoint of the run keeps: name it with "
            "--init, also when the run is resumed"
        )
    return {"base": digest(init, "transformer")}


def divided(params: Params, chosen: set[str]) -> tuple[Params, Params]:
    """(the leaves that are chosen, all others), each a tree without empty branches; inverse: `joined`."""

    def part(tree: Any, keep: bool, prefix: str) -> Any:
        if not isinstance(tree, dict):
            return tree if (prefix in chosen) == keep else None
        parts = {
            key: part(leaf, keep, f"{prefix}/{key}" if prefix else key)
            for key, leaf in tree.items()
        }
        return {key: leaf for key, leaf in parts.items() if leaf is not None} or None

    return part(params, True, ""), part(params, False, "") or {}


def joined(first: Any, second: Any) -> Any:
    """One tree of the leaves of both."""
    if not isinstance(first, dict):
        return first
    shared = {
        key: joined(leaf, second[key]) if key in second else leaf for key, leaf in first.items()
    }
    return {**second, **shared}


def _adapters(lora: LoraConfig, config: TransformerConfig) -> TrainedPart:
    base_letters, letters = param_letters(config), adapter_letters(config, lora)

    def assemble(trained: Any, frozen: Any, key: Any) -> Params:
        return adapted(frozen, trained, config, lora, key)

    def shardings(state: State, layout: Layout) -> State:
        placed = state_shardings(state._replace(frozen=None), letters, layout)
        return placed._replace(frozen=param_shardings(state.frozen, base_letters, layout))

    def divide(weights: Params, key: Any) -> tuple[Any, Params]:
        return init_adapters(config, lora, jax.random.fold_in(key, 2)), weights

    return TrainedPart(
        divide,
        assemble,
        lambda trained, frozen: merge(assemble(trained, frozen, None)),
        shardings,
        adapts=True,
    )
