"""The optimisers: what Muon treats as a matrix, and the rates and clipping of both."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lumina_jax.config import TransformerConfig, VQGANConfig
from lumina_jax.experiment import OptimizerConfig
from lumina_jax.model.params import abstract_params, stack_layers
from lumina_jax.train.optimizer import MUON_RMS, decay_labels, make_optimizer, matrix_axes
from lumina_jax.vqgan.codec import abstract_vqgan

CONFIG = TransformerConfig(2, 16, 4, 2, 8, 24, 40)
VQGAN = VQGANConfig(8, (1, 2), 1, 8, 8, 64, num_groups=4, stem_px=8)


def noise_like(tree: dict, seed: int = 1) -> dict:
    """Drawn by numpy, because jax would compile every draw."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), tree)


@pytest.fixture(scope="module")
def params() -> dict:
    return noise_like(abstract_params(CONFIG), seed=0)


def quick_jit(function: Callable) -> Callable:
    """Compiled without XLA's slower optimisations."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def first_update(config: OptimizerConfig, params: dict, gradient: dict, rate: float = 0.1) -> dict:
    optimizer = make_optimizer(config, optax.constant_schedule(rate))
    return quick_jit(optimizer.update)(gradient, optimizer.init(params), params)[0]


def by_name(axes: dict) -> dict[str, bool]:
    leaves = jax.tree_util.tree_flatten_with_path(axes, is_leaf=lambda leaf: leaf is None)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x is not None for p, x in leaves}


def test_muon_takes_exactly_the_matrices_of_the_blocks(params: dict):
    found = {name for name, taken in by_name(_marked(matrix_axes(params), params)).items() if taken}
    weights = ("q", "k", "v", "o", "gate", "up", "down")
    assert found == {f"layers/{layer}/{name}" for layer in ("00", "01") for name in weights}


def test_muon_takes_the_inner_kernels_of_the_vqgan():
    tree = abstract_vqgan(VQGAN)
    marks = by_name(_marked(matrix_axes(tree), tree))
    assert not any(taken for name, taken in marks.items() if "conv_in" in name or "bias" in name)
    assert not any(taken for name, taken in marks.items() if name.startswith("quantize"))
    inner = [name for name in marks if name.endswith("kernel") and "/block" in name]
    assert inner and all(marks[name] for name in inner)


def test_muon_update_is_orthogonal_over_the_contracted_axes(params: dict):
    config = OptimizerConfig("muon", weight_decay=0.0, clip_norm=1e9)
    update = first_update(config, params, noise_like(params))["layers"]["00"]
    shapes = {"q": (16, 32), "k": (16, 16), "o": (32, 16), "gate": (16, 24)}
    for name, shape in shapes.items():
        singular = np.linalg.svd(np.asarray(update[name]).reshape(shape), compute_uv=False)
        scaled = singular / (0.1 * MUON_RMS * np.sqrt(max(shape)))
        assert 0.6 < scaled.min() <= scaled.max() < 1.25, name


@pytest.mark.slow
def test_muon_updates_stacked_layers_one_by_one(params: dict):
    config, gradient = OptimizerConfig("muon"), noise_like(params)
    apart = stack_layers(first_update(config, params, gradient))
    together = first_update(config, stack_layers(params), stack_layers(gradient))
    for one, other in zip(jax.tree.leaves(apart), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.slow
def test_adam_ratio_scales_only_adams_part(params: dict):
    gradient = noise_like(params)
    one = first_update(OptimizerConfig("muon", weight_decay=0.0), params, gradient)
    half = first_update(OptimizerConfig("muon", weight_decay=0.0, adam_ratio=0.5), params, gradient)
    np.testing.assert_allclose(half["head"]["table"], one["head"]["table"] / 2, rtol=1e-5)
    np.testing.assert_array_equal(half["layers"]["00"]["q"], one["layers"]["00"]["q"])


def test_adamw_is_optax_after_clipping_with_decay_on_every_parameter(params: dict):
    config = OptimizerConfig("adamw", weight_decay=0.1, clip_norm=0.5)
    gradient = noise_like(params)
    norm = optax.tree.norm(gradient)
    clipped = jax.tree.map(lambda leaf: leaf * 0.5 / norm, gradient)
    reference = optax.adamw(0.1, 0.9, 0.95, 1e-8, weight_decay=0.1)
    wanted, _ = quick_jit(reference.update)(clipped, reference.init(params), params)
    for one, other in zip(
        jax.tree.leaves(first_update(config, params, gradient)),
        jax.tree.leaves(wanted),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weights_named_by_no_decay_do_not_decay_and_all_others_do(name: Any, params: dict):
    """Without a gradient an update is the decay alone."""
    config = OptimizerConfig(name, weight_decay=0.1, no_decay=("scale|bias", "embed/table"))
    update = first_update(config, params, jax.tree.map(jnp.zeros_like, params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(update):
        label = jax.tree_util.keystr(path, simple=True, separator="/")
        stays = "scale" in label or "bias" in label or label == "embed/table"
        assert leaf.any() != stays, label
    np.testing.assert_allclose(update["head"]["table"], -0.01 * params["head"]["table"], rtol=1e-5)
    np.testing.assert_allclose(
        update["layers"]["01"]["q"], -0.01 * params["layers"]["01"]["q"], rtol=1e-5
    )


def test_a_no_decay_that_names_nothing_is_refused(params: dict):
    config = OptimizerConfig(no_decay=("scale", "beta"))
    with pytest.raises(ValueError, match="no_decay 'beta' is in no weight's name; there are embed"):
        make_optimizer(config, lambda step: 0.1).init(params)


def test_no_decay_finds_layers_in_one_array_by_the_names_they_have_apart(params: dict):
    """As train.trainable does: a run file's regex means the same with and without scan_layers."""
    labels = decay_labels(("layers/.*/q_norm/scale", "layers/0[01]/gate"))
    apart, together = labels(params), labels(stack_layers(params))
    assert together["layers"] == apart["layers"]["00"] == apart["layers"]["01"]
    assert together["layers"]["q_norm"]["scale"] == together["layers"]["gate"] == "stays"
    assert together["layers"]["up"] == apart["embed"]["table"] == "decays"
    with pytest.raises(ValueError, match="no_decay '01/q.' finds 1 of 2 layers of layers/q: with"):
        decay_labels(("01/q$",))(stack_layers(params))


def test_rate_follows_the_schedule_step_by_step(params: dict):
    config = OptimizerConfig("muon", weight_decay=0.0)
    optimizer = make_optimizer(config, lambda step: jnp.where(step < 1, 0.0, 0.1))
    state, gradient = optimizer.init(params), noise_like(params)
    update = quick_jit(optimizer.update)
    first, state = update(gradient, state, params)
    second, _ = update(gradient, state, params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(first))
    assert all(leaf.any() for leaf in jax.tree.leaves(second))


def test_unknown_optimizer_lists_the_choices():
    with pytest.raises(ValueError, match="adamw, muon"):
        make_optimizer(OptimizerConfig("sgd"), lambda step: 0.1)  # pyright: ignore


def _marked(axes: dict, tree: dict) -> dict:
    """True and None by leaf: `MuonDimensionNumbers` is itself a tree, so it may not be a leaf here."""
    return jax.tree.map(
        lambda _, numbers: None if numbers is None else True,
        tree,
        axes,
        is_leaf=lambda leaf: leaf is None,
    )


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_first_moments_may_have_half_the_bytes(name: str, params: dict):
    """The update is the float32 one's to bfloat16's precision; second moments stay float32."""
    gradient = noise_like(abstract_params(CONFIG))
    plain, short = OptimizerConfig(name), OptimizerConfig(name, mu_dtype="bfloat16")
    state = make_optimizer(short, optax.constant_schedule(0.1)).init(params)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    first = {leaf.dtype.name for path, leaf in leaves if ".mu" in jax.tree_util.keystr(path)}
    second = {leaf.dtype.name for path, leaf in leaves if ".nu" in jax.tree_util.keystr(path)}
    assert (first, second) == ({"bfloat16"}, {"float32"})
    want, got = (first_update(config, params, gradient) for config in (plain, short))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.05, atol=2e-3)
