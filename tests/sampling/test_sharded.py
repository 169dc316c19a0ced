"""Painting on eight fake devices: the same images as on one, weights and cache in shards, few collectives."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.checkpoint import save_model
from lumina_jax.config import SampleConfig, TransformerConfig
from lumina_jax.experiment import MeshConfig
from lumina_jax.model.params import abstract_params
from lumina_jax.sampling import placement, sequential
from lumina_jax.sampling.generate import CACHE_BYTES, MAX_BATCH, Request, batch_limit, generate
from lumina_jax.sampling.sequential import Program, draw_run
from lumina_jax.sharding import Layout, batch_sharding, make_layout, replicated
from lumina_jax.unirep.conversation import prompt_ids

MESHES = ("tensor=8", "data=2,tensor=4", "data=8", "fsdp=8", "fsdp=4,tensor=2")
DRAWN = SampleConfig(guidance=2.0, image_top_k=40)
PROMPTS = ["a red star", "a large purple circle, please.", "a star"]
NEAR_TIE = 1e-4  # of the two best perturbed logits: XLA rounds differently at different shapes
MAX_NEAR_TIES = 1e-3  # share of tokens


def layout_of(mesh: str) -> Layout:
    config = MeshConfig.parse(mesh)
    return make_layout(config, jax.devices()[: config.num_devices])


@pytest.fixture(scope="module")
def wide(small_lumina) -> Lumina:
    """The small model with eight heads of each kind, and a vocabulary that eight devices divide."""
    sizes = {"width": 64, "num_heads": 16, "num_kv_heads": 8, "vocab_size": 768}
    transformer = replace(small_lumina.config.transformer, qk_norm_shards=4, **sizes)
    assert small_lumina.config.transformer.vocab_size <= transformer.vocab_size
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), abstract_params(transformer)
    )
    config = replace(small_lumina.config, transformer=transformer)
    return Lumina(config, params, small_lumina.vqgan_params, small_lumina.tokenizer)


@pytest.fixture(scope="module")
def checkpoint(wide, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "model"
    return save_model(path, wide.loaded.params, wide.config, wide.tokenizer)


def on_mesh(lumina: Lumina, mesh: str) -> Lumina:
    parts = lumina.params, lumina.vqgan_params, lumina.tokenizer
    return Lumina(lumina.config, *parts, layout=layout_of(mesh))


@pytest.mark.parametrize("mesh", MESHES)
def test_sharded_equals_single(wide, mesh: str) -> None:
    requests = [
        Request(prompt_ids(text, wide.tokenizer), 64, 48, seed=seed)
        for seed, text in enumerate(PROMPTS)
    ]
    sharded = on_mesh(wide, mesh)
    want = generate(wide.loaded, requests, DRAWN)
    got = generate(sharded.loaded, requests, DRAWN)
    differing = [
        (request, a.ids, b.ids)
        for request, a, b in zip(requests, want, got, strict=True)
        if not np.array_equal(a.ids, b.ids)
    ]
    assert not differing
