"""How a transformer's weights start, are taken from a checkpoint, are looked at and are released."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from lumina_jax.checkpoint import LoadedModel
from lumina_jax.config import TransformerConfig
from lumina_jax.convert.adapters import ADAPTER, write_adapter
from lumina_jax.experiment import Experiment
from lumina_jax.model.params import (
    abstract_params,
    init_params,
    param_letters,
    stack_layers,
    unstack_layers,
    with_codebook_tables,
)
from lumina_jax.sharding import Layout, param_shardings
from lumina_jax.train.program import TransformerSteps
from lumina_jax.train.step import State
from lumina_jax.train.trained_part import TrainedPart
from lumina_jax.unirep.vocab import Vocab


def weight_functions(
    experiment: Experiment,
    assets: LoadedModel,
    steps: TransformerSteps,
    layout: Layout,
) -> dict[str, Callable]:
    """The fields of a transformer's Trainee that have to do with its weights."""
    model, train, vocab = experiment.model, experiment.train, assets.tokenizer.vocab
    config, part, vqgan = model.transformer, steps.part, assets.params["vqgan"]

    def with_weights(state: Any, weights: Any) -> Any:
        weights = stack_layers(weights) if config.scan_layers else weights
        weights = like(abstract_params(config), weights)
        if train.zero_code_logits:
            weights = _without_code_logits(weights, vocab)
        if part.adapts:
            return state._replace(frozen=weights)
        return steps.state_of(weights, None)

    def weight_shardings() -> Any:
        on_disk = replace(config, scan_layers=False)
        return param_shardings(abstract_params(on_disk), param_letters(on_disk), layout)

    def release(state: Any) -> dict[str, Any]:
        params = released(whole_state(state, part, config, layout))
        if config.scan_layers:  # each layer to its own shards, nothing gathered
            params = jax.jit(unstack_layers, out_shardings=weight_shardings())(params)
        return {"transformer": params, "vqgan": vqgan}

    def export(state: Any, workdir: Path) -> None:
        assert train.lora is not None
        write_adapter(workdir / ADAPTER, released(state), config, train.lora)

    def init(key: jax.Array) -> Any:
        params = init_params(config, key)
        if train.codebook_tables:
            codebook, table_key = vqgan["quantize"]["embedding"], jax.random.fold_in(key, 1)
            params = with_codebook_tables(params, codebook, vocab.first_code_id, table_key)
        return steps.state_of(params, key)

    functions: dict[str, Callable] = {
        "init": init,
        "with_weights": with_weights,
        "weight_shardings": weight_shardings,
        "released": released,
        "release": release,
        "whole": lambda state: whole_state(state, part, config, layout),
    }
    if part.adapts:
        functions |= {"saved": lambda state: state._replace(frozen=None), "export": export}
    return functions


def released(state: State) -> Any:
    """The trained weights that are released: their average where one is kept."""
    return state.params if state.ema is None else state.ema


def whole_state(
    state: State, part: TrainedPart, config: TransformerConfig, layout: Layout
) -> State:
    """The state with all weights in `params`, averaged ones where they are kept; as it is where nothing is frozen."""
    if state.frozen is None:
        return state
    places = param_shardings(abstract_params(config), param_letters(config), layout)
    params = jax.jit(part.merged, out_shardings=places)(released(state), state.frozen)
    return state._replace(params=params, ema=None, frozen=None)


def like(wanted: Any, found: Any) -> Any:
    """`found` with the dtypes of `wanted`; ValueError naming the first leaf that differs in path or shape."""
    if jax.tree.structure(wanted) != jax.tree.structure(found):
        raise ValueError("--init: the checkpoint's tree of weights differs from the run's model")

    def checked(path: tuple, want: Any, got: Any) -> Any:
        if want.shape != got.shape:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"--init: {name} is {got.shape} in the checkpoint, want {want.shape}")
        return got.astype(want.dtype)

    return jax.tree_util.tree_map_with_path(checked, wanted, found)


def _without_code_logits(params: Mapping[str, Any], vocab: Vocab) -> dict[str, Any]:
    """The head starts neutral between image codes: Chameleon's release was kept from painting."""
    codes = slice(vocab.first_code_id, vocab.first_code_id + vocab.num_codes)
    table = params["head"]["table"].at[codes].set(0)
    return {**params, "head": {**params["head"], "table": table}}
