"""The weight tree: true sizes, stacking, letters, and how weights start."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.model.params import (
    abstract_params,
    count_params,
    param_letters,
    stack_layers,
    unstack_layers,
)
from lumina_jax.model.params import init_params as eager_init
from lumina_jax.model.presets import PRESETS
from lumina_jax.model.weights import letter_sizes

init_params = jax.jit(eager_init, static_argnums=0)
CONFIG = TransformerConfig(
    num_layers=3,
    width=12,
    num_heads=4,
    num_kv_heads=2,
    head_size=6,
    mlp_width=10,
    vocab_size=17,
    qk_norm_shards=2,
)


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
    assert shapes["embed"] == {"table": (17, 12)} == shapes["head"]
    assert shapes["final_norm"] == {"scale": (12,)}
    assert shapes["layers"]["01"] == {
        "attention_norm": {"scale": (12,)},
        "q": (12, 4, 6),
        "k": (12, 2, 6),
        "v": (12, 2, 6),
        "o": (4, 6, 12),
        "q_norm": {"scale": (2, 6), "bias": (2, 6)},
        "k_norm": {"scale": (2, 6), "bias": (2, 6)},
        "mlp_norm": {"scale": (12,)},
        "gate": (12, 10),
        "up": (12, 10),
        "down": (10, 12),
    }


def test_stack_layers_round_trip_is_exact():
    """Unstacked to stacked and back: the same leaves, and distinct layers stay apart."""
    params = init_params(CONFIG, jax.random.key(0))
    back = unstack_layers(stack_layers(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert not np.array_equal(back["layers"]["00"]["q"], back["layers"]["02"]["q"])


def test_init_params_is_the_same_stacked():
    """`scan_layers` changes the layout, not the numbers."""
    stacked = init_params(replace(CONFIG, scan_layers=True), jax.random.key(1))
    want = stack_layers(init_params(CONFIG, jax.random.key(1)))
    jax.tree.map(np.testing.assert_array_equal, stacked, want)


def test_init_params_scales_by_inputs():
    """Matrices have standard deviation 1/sqrt(inputs), tables 0.02, scales are one, biases zero."""
    config = replace(CONFIG, width=64, num_heads=8, num_kv_heads=8, head_size=16, vocab_size=500)
    params = init_params(config, jax.random.key(0))
    layer = params["layers"]["00"]
    for name, num_inputs in (("q", 64), ("o", 128), ("gate", 64), ("down", 10)):
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
