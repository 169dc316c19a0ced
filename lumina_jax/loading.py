"""A complete model off a disk: weights where and as they are to be used, tokenizer, its own settings; all checked."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.tree_util import tree_leaves_with_path

from lumina_jax.checkpoint import (
    CheckpointError,
    LoadedModel,
    digest,
    load_model,
    read_config,
    resolve,
)
from lumina_jax.checksums import leaf_name
from lumina_jax.config import ModelConfig, SampleConfig
from lumina_jax.config_json import config_from_dict
from lumina_jax.experiment import MeshConfig
from lumina_jax.model.params import abstract_params
from lumina_jax.model.precision import keeper, with_precision
from lumina_jax.ops.products import is_stored
from lumina_jax.sampling.placement import model_shardings, place_weights
from lumina_jax.sampling.sequential import inference_config
from lumina_jax.sharding import Layout, make_layout
from lumina_jax.unirep.text import TextTokenizer
from lumina_jax.vqgan.codec import abstract_vqgan


class Parts(NamedTuple):
    """What `Lumina` is made of."""

    config: ModelConfig
    params: Any  # the transformer's
    vqgan_params: Any
    tokenizer: TextTokenizer
    settings: SampleConfig | None  # its own, None where it names none
    digest: str


def load_parts(path: str | Path, layout: Layout | None, precision: str | None) -> Parts:
    """The parts of the checkpoint at `path`, as `Lumina.load` takes it; ValueError of one line where one is missing."""
    folder = resolve(path)
    config, notes = read_config(folder)
    keep = {"transformer": keeper(config.transformer, precision)}
    loaded = load_model(folder, shardings=model_shardings(config, layout), keep=keep)
    missing = [name for name in ("transformer", "vqgan") if name not in loaded.params]
    missing += ["tokenizer"] * (loaded.tokenizer is None)
    if missing:
        raise ValueError(
            f"{folder}: has no {' and no '.join(missing)}; want a complete model checkpoint"
        )
    _check_trees(folder, loaded)
    settings = _own_settings(folder, notes)
    transformer = inference_config(with_precision(config.transformer, precision))
    params = place_weights(loaded.params["transformer"], transformer, layout, donate=True)
    tokenizer = loaded.tokenizer
    return Parts(config, params, loaded.params["vqgan"], tokenizer, settings, digest(folder))


def layout_of(mesh: str | None, cpu_devices: int = 1) -> Layout | None:
    """The mesh of a command line over the first devices of this machine; ValueError where there are too few.

    `cpu_devices`: into how many a machine without accelerator is split first.
    """
    if cpu_devices > 1:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    if mesh is None:
        return None
    config = MeshConfig.parse(mesh)
    return make_layout(config, jax.local_devices()[: config.num_devices])


def _check_trees(folder: Path, loaded: LoadedModel) -> None:
    """CheckpointError where the weights are not those that the config describes."""
    config = loaded.config
    wanted = {
        "transformer": abstract_params(replace(config.transformer, scan_layers=False)),
        "vqgan": abstract_vqgan(config.vqgan),
    }
    want, got = (
        {
            leaf_name(path): leaf.shape
            for path, leaf in tree_leaves_with_path(tree, is_leaf=is_stored)
        }
        for tree in (wanted, loaded.params)
    )
    odd = sorted(name for name in {*want, *got} if want.get(name) != got.get(name))
    if odd:
        raise CheckpointError(
            f"{folder}: {odd[0]} is {got.get(odd[0], 'missing')}, its config.json wants "
            f"{want.get(odd[0], 'none')}; fetch the folder again"
        )


def _own_settings(folder: Path, notes: Mapping[str, Any]) -> SampleConfig | None:
    """The sampling settings in a checkpoint's notes, None where there are none."""
    try:
        return config_from_dict(SampleConfig, notes["sample"]) if "sample" in notes else None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json: extra.sample: {error}") from None
