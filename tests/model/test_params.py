"""The weight tree: true sizes, stacking, letters, and how weights start."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.model.params import (
    CODE_LOGIT_STD,
    abstract_params,
    count_params,
    init_params,
    param_letters,
    stack_layers,
    unstack_layers,
    with_codebook_tables,
)
from lumina_jax.model.presets import PRESETS
from lumina_jax.model.weights import letter_sizes

CONFIG = TransformerConfig(
    num_layers=3,
    width=32,
    num_heads=8,
    num_kv_heads=2,
    head_size=10,
    mlp_width=24,
    vocab_size=300,
    qk_norm_shards=2,
)


@functools.cache
def draw_params(scan_layers: bool) -> dict:
    """Fresh weights in either layout."""
    config = replace(CONFIG, scan_layers=scan_layers)
    return jax.jit(init_params, static_argnums=0)(config, jax.random.key(1))


@pytest.mark.parametrize(("name", "want"), [("7b", 7_013_158_912), ("34b", 34_293_522_432)])
def test_count_params_of_released_sizes(name, want):
    """The numbers of parameters published for the released checkpoints."""
    config = replace(PRESETS[name].transformer, scan_layers=True)
    assert count_params(abstract_params(config)) == want


def test_abstract_params_has_the_documented_tree():
    """Names and shapes as they are on disk."""
    tree = abstract_params(CONFIG)
    assert set(tree) == {"embed", "layers", "final_norm", "head"}
    assert set(tree["layers"]) == {"00", "01", "02"}
    shapes = jax.tree.map(lambda leaf: leaf.shape, tree)
    assert shapes["embed"] == {"table": (300, 32)} == shapes["head"]
    assert shapes["final_norm"] == {"scale": (32,)}
    assert shapes["layers"]["01"] == {
        "attention_norm": {"scale": (32,)},
        "q": (32, 8, 10),
        "k": (32, 2, 10),
        "v": (32, 2, 10),
        "o": (8, 10, 32),
        "q_norm": {"scale": (2, 10), "bias": (2, 10)},
        "k_norm": {"scale": (2, 10), "bias": (2, 10)},
        "mlp_norm": {"scale": (32,)},
        "gate": (32, 24),
        "up": (32, 24),
        "down": (24, 32),
    }


def test_stack_layers_round_trip_is_exact():
    """Unstacked to stacked and back: the same leaves, and distinct layers stay apart."""
    params = draw_params(scan_layers=False)
    back = unstack_layers(stack_layers(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert not np.array_equal(back["layers"]["00"]["q"], back["layers"]["02"]["q"])


@pytest.mark.slow  # bit by bit with the emitters that users run
def test_init_params_is_the_same_stacked():
    """`scan_layers` changes the layout, not the numbers."""
    want = stack_layers(draw_params(scan_layers=False))
    jax.tree.map(np.testing.assert_array_equal, draw_params(scan_layers=True), want)


def test_init_params_scales_by_inputs():
    """Matrices have standard deviation 1/sqrt(inputs), tables 0.02, scales are one, biases zero."""
    params = draw_params(scan_layers=False)
    layer = params["layers"]["00"]
    for name, num_inputs in (("q", 32), ("o", 80), ("gate", 32), ("down", 24)):
        assert abs(float(layer[name].std()) * num_inputs**0.5 - 1) < 0.1
    assert abs(float(params["embed"]["table"].std()) - 0.02) < 1e-3
    assert bool((layer["q_norm"]["scale"] == 1).all()) and bool(
        (layer["q_norm"]["bias"] == 0).all()
    )


def test_init_params_uses_the_parameter_dtype():
    """bfloat16 weights where the config says so."""
    params = abstract_params(replace(CONFIG, param_dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("scan_layers", [False, True])
def test_param_letters_give_the_shapes(scan_layers):
    """Each letter's size is the axis' length, in both layouts."""
    config = replace(CONFIG, scan_layers=scan_layers)
    sizes = {**letter_sizes(config), "L": config.num_layers}
    jax.tree.map(
        lambda leaf, letters: np.testing.assert_array_equal(
            leaf.shape, [sizes[letter] for letter in letters.split()]
        ),
        abstract_params(config),
        param_letters(config),
    )


@pytest.mark.slow
def test_codebook_tables_are_alike_where_the_codes_are():
    config = replace(CONFIG, width=64, vocab_size=40)
    params = init_params(config, jax.random.key(0))
    codebook = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    codebook = codebook.at[1].set(codebook[0] + 0.01)
    found = with_codebook_tables(params, codebook, 5, jax.random.key(1))
    for name, std in (("embed", 1.0), ("head", CODE_LOGIT_STD)):
        rows = np.asarray(found[name]["table"])
        assert 0.7 * std < rows[5:21].std() < 1.3 * std
        near, far = (np.linalg.norm(rows[5] - rows[other]) for other in (6, 7))
        assert near < 0.1 * far
    np.testing.assert_array_equal(found["head"]["table"][:5], params["head"]["table"][:5])
    np.testing.assert_allclose(found["embed"]["table"][21:], params["embed"]["table"][21:] / 0.02)
    assert found["layers"] is params["layers"]
