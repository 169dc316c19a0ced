"""Adapters: beside the weights they are what they are merged into them, in value and gradient, stacked or not."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import LORA_TARGETS, LoraConfig
from lumina_jax.model.chameleon import forward
from lumina_jax.model.lora import (
    Adapted,
    adapted,
    adapter_letters,
    adapter_shapes,
    init_adapters,
    merge,
)
from lumina_jax.model.params import abstract_params, stack_layers
from lumina_jax.ops.losses import cross_entropy_and_z, shift_labels

CONFIG = TransformerConfig(2, 16, 4, 2, 8, 24, 40)
SWIN = replace(CONFIG, norm_placement="swin", qk_norm_shards=2)
LORA = LoraConfig(rank=3, alpha=6.0)
IDS = np.random.default_rng(0).integers(0, 40, (2, 7)).astype(np.int32)
QUICK = {"xla_backend_optimization_level": 0}  # of the compiler, for programs that run once


def noise(tree: Any, seed: int = 0, std: float = 0.3) -> Any:
    """Drawn by numpy, because jax would compile every draw."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(std * rng.standard_normal(leaf.shape), jnp.float32), tree
    )


def base_and_adapters(config: TransformerConfig, lora: LoraConfig = LORA) -> tuple[Any, Any]:
    shapes = jax.tree.map(
        lambda shape: np.empty(shape, np.bool_),
        adapter_shapes(config, lora),
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )
    return noise(abstract_params(config)), noise(shapes, 1)


def logits(params: Any, config: TransformerConfig) -> np.ndarray:
    run = jax.jit(
        lambda params: forward(params, config, jnp.asarray(IDS))[0], compiler_options=QUICK
    )
    return np.asarray(run(params))


@pytest.mark.parametrize("config", [CONFIG, pytest.param(SWIN, marks=pytest.mark.slow)])
def test_adapters_beside_equal_adapters_merged(config: TransformerConfig):
    base, adapters = base_and_adapters(config)
    params = adapted(base, adapters, config, LORA)
    merged = merge(params)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    np.testing.assert_allclose(logits(params, config), logits(merged, config), atol=1e-4)
    assert np.abs(logits(merged, config) - logits(base, config)).max() > 0.1


def test_gradients_of_adapters_equal_those_through_the_merged_weights():
    base, adapters = base_and_adapters(CONFIG)

    def loss(adapters: Any, is_merged: bool) -> Any:
        params = adapted(base, adapters, CONFIG, LORA)
        found, _ = forward(merge(params) if is_merged else params, CONFIG, jnp.asarray(IDS))
        return cross_entropy_and_z(found, shift_labels(jnp.asarray(IDS))).cross_entropy

    graded = jax.jit(jax.grad(loss), static_argnums=1, compiler_options=QUICK)
    one, other = graded(adapters, False), graded(adapters, True)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.abs(b).max() > 1e-4
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_fresh_adapters_change_nothing_and_are_as_hu_et_al_draw_them():
    wide = replace(CONFIG, width=64, mlp_width=256)
    lora = LoraConfig(rank=8, targets=("q", "o", "down"))
    adapters = init_adapters(wide, lora, jax.random.key(0))
    base = noise(abstract_params(wide))
    params = adapted(base, adapters, wide, lora)
    np.testing.assert_array_equal(logits(params, wide), logits(base, wide))
    for name, num_inputs in (("q", 64), ("o", 32), ("down", 256)):
        pair = adapters["layers"]["01"][name]
        assert not np.asarray(pair["b"]).any()
        assert np.asarray(pair["a"]).std() == pytest.approx(num_inputs**-0.5, rel=0.15)
    assert (adapters["layers"]["00"]["q"]["a"] != adapters["layers"]["01"]["q"]["a"]).any()
    kinds = {name: type(leaf) for name, leaf in params["layers"]["00"].items()}
    assert [name for name, kind in kinds.items() if kind is Adapted] == ["down", "o", "q"]


@pytest.mark.parametrize("remat", [pytest.param("none", marks=pytest.mark.slow), "full"])
def test_stacked_adapters_equal_those_of_single_layers(remat: str):
    """In value, gradient, drawing, merging and dropout from the same key."""
    lora = replace(LORA, dropout=0.4)
    base, adapters = base_and_adapters(CONFIG, lora)
    scanned = replace(CONFIG, scan_layers=True, remat=remat)
    stacked = stack_layers(base), stack_layers(adapters)
    key = jax.random.key(3)

    def loss(adapters: Any, base: Any, config: TransformerConfig) -> Any:
        params = adapted(base, adapters, config, lora, key)
        found, _ = forward(params, config, jnp.asarray(IDS))
        return cross_entropy_and_z(found, shift_labels(jnp.asarray(IDS))).cross_entropy

    graded = jax.jit(jax.value_and_grad(loss), static_argnums=2, compiler_options=QUICK)
    want, gradient = graded(adapters, base, CONFIG)
    got, stacked_gradient = graded(stacked[1], stacked[0], scanned)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    pairs = zip(
        jax.tree.leaves(stacked_gradient), jax.tree.leaves(stack_layers(gradient)), strict=True
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    one = merge(adapted(*stacked, scanned, lora))
    other = stack_layers(merge(adapted(base, adapters, CONFIG, lora)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, other)
    drawn = init_adapters(scanned, lora, key)
    again = stack_layers(init_adapters(CONFIG, lora, key))
    jax.tree.map(np.testing.assert_array_equal, drawn, again)


def test_dropout_drops_what_the_adapters_read_and_nothing_else():
    """Twice as much of half of it; without a key, as in sampling, all of it."""
    base, a, b = jnp.zeros((400, 3)), jnp.eye(400), jnp.ones((400, 3))
    weight = Adapted(base, a, b, jax.random.key(0), 1.0, 0.5)
    x = jnp.ones((1, 1, 400))
    found = weight.product("BSD,DF->BSF", x, jnp.float32)
    assert found[0, 0, 0] % 2 == 0 and 300 < float(found[0, 0, 0]) < 500 and found[0, 0, 0] != 400
    whole = replace(weight, key=None).product("BSD,DF->BSF", x, jnp.float32)
    np.testing.assert_allclose(whole, 400.0)
    dense = replace(weight, base=base + 1, b=0 * b).product("BSD,DF->BSF", x, jnp.float32)
    np.testing.assert_allclose(dense, 400.0)


def test_dropout_of_adapters_is_drawn_apart_from_the_model_s():
    """The model's branches draw from fold_in(key, 0 … 2 L - 1), see `Block._drop`; and no two matrices draw alike."""
    key, lora = jax.random.key(3), replace(LORA, dropout=0.4)
    params = adapted(*base_and_adapters(CONFIG, lora), CONFIG, lora, key)
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, Adapted))
    own = [leaf.key for leaf in leaves if isinstance(leaf, Adapted)]
    branches = [jax.random.fold_in(key, index) for index in range(2 * CONFIG.num_layers)]
    seen = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in [*own, *branches]}
    assert len(own) == 14 and len(seen) == len(own) + len(branches)


def test_activations_decide_the_dtype_and_the_base_that_of_the_merged_weight():
    base, adapters = base_and_adapters(CONFIG)
    base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base)
    params = adapted(base, adapters, CONFIG, LORA)
    q = params["layers"]["00"]["q"]
    x = jnp.ones((1, 2, 16), jnp.bfloat16)
    assert q.product("BSD,DNH->BSNH", x, x.dtype).dtype == jnp.bfloat16
    assert q.array().dtype == jnp.bfloat16 and q.shape == (16, 4, 8)
    part = q.rows(4, 8)
    np.testing.assert_array_equal(part.array(), q.array()[4:12])


def test_letters_of_adapters_are_those_of_their_weights():
    layer = adapter_letters(CONFIG, LORA)["layers"]["01"]
    assert set(layer) == set(LORA_TARGETS)
    assert layer["q"] == {"a": "D A", "b": "A N H"} and layer["o"] == {"a": "N H A", "b": "A D"}
    scanned = replace(CONFIG, scan_layers=True)
    assert adapter_letters(scanned, LORA)["layers"]["down"] == {"a": "L F A", "b": "L A D"}


def test_unknown_targets_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"lora.targets \['head'\]: want some of q, k, v"):
        LoraConfig(targets=("q", "head"))
