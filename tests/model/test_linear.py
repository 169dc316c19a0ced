"""Products on a mesh equal those of one device, gradients come back where weights lie, scattered as they are summed."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import LoraConfig
from lumina_jax.model.chameleon import hidden_states
from lumina_jax.model.linear import sharded_product
from lumina_jax.model.lora import adapted, adapter_shapes
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.ops.products import product
from lumina_jax.sharding import (
    STRATEGIES,
    Layout,
    batch_sharding,
    letter_sharding,
    param_shardings,
)
from tests.meshes import layout_of

SIZES = {"B": 8, "S": 8, "D": 16, "N": 4, "K": 4, "H": 6, "F": 12}
SPECS = {  # by the letters of the weight
    "D N H": "BSD,DNH->BSNH",
    "N H D": "BSNH,NHD->BSD",
    "D F": "BSD,DF->BSF",
    "F D": "BSF,FD->BSD",
}
QUICK = ("fsdp", "data_fsdp_sequence", "fsdp_tensor")


def draw(letters: str, seed: int) -> np.ndarray:
    shape = [SIZES[letter] for letter in letters.replace(" ", "")]
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def graded(multiply: Any, x: Any, weight: Any) -> Any:
    """Value and both gradients of a function of a product."""

    def value(x: Any, weight: Any) -> Any:
        y = multiply(x, weight)
        return jnp.sum(jnp.sin(y)), y

    return jax.value_and_grad(value, (0, 1), has_aux=True)(x, weight)


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in STRATEGIES],
)
@pytest.mark.parametrize("letters", SPECS)
def test_sharded_product_is_the_product_in_value_and_gradients(letters: str, strategy: str):
    """And the weight's gradient lies where the weight does."""
    spec, layout = SPECS[letters], layout_of(strategy)
    read = spec.split(",")[0]
    x, weight = draw(read, 0), draw(letters, 1)
    wanted = graded(lambda x, w: product(spec, x, w), x, weight)
    place = letter_sharding(letters, weight.shape, layout, "weights")
    tokens = letter_sharding(" ".join(read), x.shape, layout)
    placed = jax.device_put(x, tokens), jax.device_put(weight, place)
    multiply = partial(sharded_product, spec, letters, layout)
    found = jax.jit(partial(graded, multiply))(*placed)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    gradient = found[1][1]
    assert gradient.sharding.is_equivalent_to(place, gradient.ndim)


def collectives(strategy: str) -> list[str]:
    """What sums a product's weight gradient, in the traced program."""
    layout, x, weight = layout_of(strategy), draw("BSD", 0), draw("D F", 1)

    def step(x: Any, weight: Any) -> Any:
        return graded(partial(sharded_product, "BSD,DF->BSF", "D F", layout), x, weight)

    text = str(jax.make_jaxpr(step)(x, weight))
    return [name for name in ("reduce_scatter", "psum") if f" {name}[" in text]


def test_gradients_are_scattered_as_they_are_summed_and_summed_over_copies():
    assert collectives("fsdp") == ["reduce_scatter"]
    assert collectives("fsdp_sequence") == ["reduce_scatter"]
    assert collectives("data_fsdp") == ["reduce_scatter", "psum"]
    assert collectives("data") == ["psum"]


CONFIG = TransformerConfig(2, 16, 4, 4, 4, 24, 40, scan_layers=True)
LORA = LoraConfig(rank=2, alpha=4.0)
IDS = np.random.default_rng(0).integers(0, 40, (8, 8)).astype(np.int32)


def noise(shapes: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes)


def run_model(config: TransformerConfig, layout: Layout | None, with_adapters: bool) -> Any:
    """Gradient of a model's hidden states by what is trained: its adapters, or all weights."""
    base, trained = noise(abstract_params(config), 0), None
    if with_adapters:
        shapes = jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
            adapter_shapes(config, LORA),
            is_leaf=lambda leaf: isinstance(leaf, tuple),
        )
        trained = noise(shapes, 1)
    ids: Any = IDS
    if layout is not None:
        places = param_shardings(abstract_params(config), param_letters(config), layout)
        base, ids = jax.device_put(base, places), jax.device_put(IDS, batch_sharding(layout))

    def value(trained: Any, base: Any, ids: Any) -> Any:
        weights = adapted(base, trained, config, LORA) if with_adapters else trained
        hidden, _ = hidden_states(weights, config, ids, layout=layout)
        return jnp.mean(jnp.sin(hidden))

    trained = trained if with_adapters else base
    return jax.jit(jax.value_and_grad(value))(trained, base, ids)


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [
        pytest.param("fsdp", "adapters", marks=pytest.mark.slow),
        pytest.param("fsdp_tensor", "adapters", marks=pytest.mark.slow),
        pytest.param("fsdp_sequence", "adapters", marks=pytest.mark.slow),
        pytest.param("fsdp", "int8", marks=pytest.mark.slow),
        pytest.param("fsdp_tensor", "int8", marks=pytest.mark.slow),
        pytest.param("fsdp_sequence", "int8", marks=pytest.mark.slow),
    ],
)
def test_adapters_and_low_precision_on_a_mesh_equal_one_device(strategy: str, kind: str):
    config = CONFIG if kind == "adapters" else replace(CONFIG, matmul_dtype="int8")
    layout = layout_of(strategy)
    found, wanted = (run_model(config, place, kind == "adapters") for place in (layout, None))
    tolerance = (
        1e-5 if kind == "adapters" else 2e-2
    )  # a sum that rounds otherwise moves whole steps
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = float(np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)
