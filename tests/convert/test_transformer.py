"""Stored tensors as our arrays and back: every layout, bit for bit, and every key accounted for."""

import json

import jax
import numpy as np
import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.convert.layouts import open_weights
from lumina_jax.convert.stored_tensor import StoredTensor
from lumina_jax.convert.transformer import (
    check_replicas,
    read_leaves,
    rules,
    stored_entries,
    with_norm_groups,
)
from lumina_jax.convert.weights import Leaf, named
from lumina_jax.model.params import abstract_params

GROUPED = TransformerConfig(2, 24, 6, 3, 4, 32, 40, qk_norm_shards=3, param_dtype="bfloat16")


def random_leaves(config: TransformerConfig) -> dict[str, Leaf]:
    """Different random bits in every array of a model."""

    def leaf(place: int, abstract) -> Leaf:
        bits = np.random.default_rng(place).integers(0, 2**16, abstract.shape, dtype=np.uint16)
        return Leaf(abstract.shape, abstract.dtype, lambda: bits.view(abstract.dtype))

    return {n: leaf(i, found) for i, (n, found) in enumerate(named(abstract_params(config)))}


def as_stored(entries) -> dict[str, StoredTensor]:
    """What is to be written, as if it had been."""
    return {
        key: StoredTensor(key, entry.shape, entry.dtype, "a file", lambda verify, e=entry: e.read())
        for key, entry in entries.items()
    }


def assert_same_bits(got: dict[str, Leaf], want: dict[str, Leaf]) -> None:
    assert got.keys() == want.keys()
    for name, leaf in want.items():
        assert (got[name].shape, got[name].dtype) == (leaf.shape, leaf.dtype), name
        assert got[name].read().tobytes() == leaf.read().tobytes(), name


@pytest.mark.parametrize("layout", ["meta", "lumina", "transformers"])
def test_layout_round_trip_is_bit_exact(layout, tmp_path):
    """Shards of unequal length (40 ids over 3), grouped queries, a norm a shard, adjacent pairs."""
    leaves = random_leaves(GROUPED)
    count = GROUPED.qk_norm_shards if layout == "meta" else 1
    shards = [as_stored(stored_entries(layout, GROUPED, leaves, shard)) for shard in range(count)]
    for shard in shards:
        for tensor in shard.values():
            assert tensor.read().shape == tensor.shape
    assert_same_bits(read_leaves(layout, GROUPED, shards, tmp_path, layout == "meta"), leaves)


def test_meta_and_hf_give_the_same_arrays(golden_release):
    """Shards joined and rotary pairs reordered, bit for bit; shapes as the model declares them."""
    meta, hf = (open_weights(golden_release(layout)) for layout in ("meta", "hf"))
    assert meta.config.transformer == hf.config.transformer
    assert_same_bits(meta.part("transformer"), hf.part("transformer"))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), abstract_params(meta.config.transformer))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), meta.tree("transformer")) == shapes


def test_transformers_rows_repeat_the_shards(tmp_path):
    """Six query heads and three key heads of three shards: rows 0 0 1 1 2 2 and 0 1 2."""
    entries = stored_entries("transformers", GROUPED, random_leaves(GROUPED))
    rows = entries["model.layers.1.self_attn.q_norm.weight"].read().view(np.uint16)
    assert rows.shape == (6, 4)
    np.testing.assert_array_equal(rows[::2], rows[1::2])
    assert (rows[0] != rows[2]).any()
    assert entries["model.layers.1.self_attn.k_norm.bias"].shape == (3, 4)


def test_number_of_norm_groups_is_read_off_the_rows(tmp_path):
    """Whatever the config says."""
    stored = as_stored(stored_entries("transformers", GROUPED, random_leaves(GROUPED)))
    claimed = TransformerConfig(2, 24, 6, 3, 4, 32, 40)
    assert with_norm_groups(claimed, stored, tmp_path) == GROUPED.__class__(
        **{**GROUPED.__dict__, "param_dtype": "float32"}
    )


def test_norms_trained_apart_are_refused(tmp_path):
    """Two query heads with one key head and different norms."""
    stored = as_stored(stored_entries("transformers", GROUPED, random_leaves(GROUPED)))
    key = "model.layers.0.self_attn.q_norm.weight"
    rows = stored[key].read().copy()
    rows[1] += 1
    stored[key] = StoredTensor(key, rows.shape, rows.dtype, "a file", lambda verify: rows)
    with pytest.raises(ValueError, match="heads that share a key differ"):
        with_norm_groups(GROUPED, stored, tmp_path)


def test_drifted_copies_are_named_and_other_models_refused():
    """A rounding beside its copies, then as far as a fine-tuned model's."""
    leaves = random_leaves(GROUPED)
    one = {
        name: Leaf(x.shape, x.dtype, lambda x=x: np.ones(x.shape, x.dtype))
        for name, x in leaves.items()
    }
    ones = {name: one[name] if "norm" in name else leaf for name, leaf in leaves.items()}
    shards = [as_stored(stored_entries("meta", GROUPED, ones, shard)) for shard in range(3)]
    assert check_replicas(GROUPED, shards) == []
    for factor, drifted in ((1.004, True), (1.03, False)):
        values = np.full(24, factor, GROUPED.param_dtype)
        shards[1]["norm.weight"] = StoredTensor(
            "norm.weight", (24,), values.dtype, "consolidated.01.pth", lambda verify, v=values: v
        )
        if drifted:
            assert check_replicas(GROUPED, shards) == ["norm.weight"]
        else:
            with pytest.raises(ValueError, match="shards of different models: norm.weight"):
                check_replicas(GROUPED, shards)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored, key: stored.pop(key), "1 weights missing.*w1"),
        (lambda stored, key: stored.update(more=stored[key]), "1 unknown.*more"),
        (lambda stored, key: stored.update({key: of_shape(stored[key], (32, 23))}), "has shape"),
        (lambda stored, key: stored.update({key: of_dtype(stored[key])}), "w1.weight is float32"),
    ],
    ids=["missing", "unknown", "misshapen", "another dtype"],
)
def test_keys_that_do_not_fit_are_refused(tmp_path, change, message):
    config = TransformerConfig(2, 24, 6, 3, 4, 32, 40, param_dtype="bfloat16")
    stored = as_stored(stored_entries("meta", config, random_leaves(config)))
    change(stored, "layers.0.feed_forward.w1.weight")
    with pytest.raises(ValueError, match=message):
        read_leaves("meta", config, [stored], tmp_path, True)


def of_shape(tensor: StoredTensor, shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor(tensor.name, shape, tensor.dtype, tensor.where, tensor.fetch)


def of_dtype(tensor: StoredTensor) -> StoredTensor:
    return StoredTensor(tensor.name, tensor.shape, np.dtype(np.float32), tensor.where, tensor.fetch)


def test_every_array_has_a_rule():
    """The table and the model agree for grouped queries and several layers."""
    wanted = {name for name, _ in named(abstract_params(GROUPED))}
    assert {name for name, _, _ in rules(GROUPED)} == wanted


def test_config_of_fewer_layers_than_the_file_is_refused(release):
    folder = release("hf")
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"0 weights missing.*13 unknown.*model\.layers\."):
        open_weights(folder)
