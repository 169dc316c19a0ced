"""A tiny random checkpoint that the evaluation's tests share."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from lumina_jax.checkpoint import save_model
from lumina_jax.config import GridConfig, ModelConfig, TransformerConfig, VQGANConfig
from lumina_jax.model.params import abstract_params
from lumina_jax.vqgan.codec import abstract_vqgan


class TinyModel(NamedTuple):
    """Where it lies, and what is in it."""

    path: str
    config: ModelConfig
    params: dict


@pytest.fixture(scope="session")
def tiny_model(small_tokenizer, tmp_path_factory) -> TinyModel:
    """One layer, 64 codes of 16 px, random weights drawn by numpy, so that nothing is compiled."""
    vqgan = VQGANConfig(
        channels=8,
        channel_multipliers=(1, 1),
        num_res_blocks=1,
        z_channels=4,
        code_width=4,
        num_codes=64,
        num_groups=4,
        stem_px=8,
    )
    transformer = TransformerConfig(1, 16, 2, 2, 8, 16, small_tokenizer.vocab.size)
    grid = GridConfig(16, 16, max_units=16)
    config = ModelConfig(transformer, vqgan, grid, max_tokens=256, target_px=96)
    rng = np.random.default_rng(0)
    abstract = {"transformer": abstract_params(transformer), "vqgan": abstract_vqgan(vqgan)}
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype("f4"), abstract)
    path = save_model(tmp_path_factory.mktemp("evals") / "tiny", params, config, small_tokenizer)
    return TinyModel(str(path), config, params)
