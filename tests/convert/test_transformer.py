"""Both release layouts of the same model become the same tree."""

import json

import jax
import numpy as np
import pytest

from lumina_jax.convert.transformer import load_hf, load_meta
from lumina_jax.model.params import abstract_params


def test_meta_and_hf_give_the_same_tree(golden_release):
    """Shards joined and rotary pairs reordered, bit for bit; shapes as the model declares them."""
    config, meta = load_meta(golden_release("meta"))
    hf_config, hf = load_hf(golden_release("hf"))
    assert config == hf_config
    jax.tree.map(np.testing.assert_array_equal, meta, hf)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract_params(config))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), meta) == shapes


def test_load_meta_wants_every_shard(golden_release):
    """One shard fewer than params.json says."""
    folder = golden_release("meta")
    next(iter(sorted(folder.glob("*.pth")))).unlink()
    with pytest.raises(ValueError, match=r"consolidated\*.pth files, its parameters say"):
        load_meta(folder)


def test_load_hf_names_missing_and_unknown_weights(golden_release):
    """A config with one layer fewer than the file."""
    folder = golden_release("hf")
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"0 weights missing.*13 unknown.*model\.layers\."):
        load_hf(folder)


def test_load_hf_of_an_empty_folder(golden_release):
    """Config but no weights."""
    folder = golden_release("hf")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        load_hf(folder)
