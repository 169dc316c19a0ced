"""Training in 8 bits: what the products read, how far their numbers are, and that a model still learns."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import LoraConfig, MeshConfig
from lumina_jax.model.chameleon import hidden_states
from lumina_jax.model.lora import adapted, init_adapters
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.ops.losses import loss_from_hidden, shift_labels
from lumina_jax.ops.low_precision import RULES
from lumina_jax.sampling.sequential import inference_config
from lumina_jax.sharding import Layout, make_layout, param_shardings

CONFIG = TransformerConfig(
    num_layers=2,
    width=32,
    num_heads=4,
    num_kv_heads=4,
    head_size=8,
    mlp_width=64,
    vocab_size=32,
    scan_layers=True,
    remat="minimal",
)
IDS = jnp.asarray(np.random.default_rng(1).integers(0, 32, (4, 9)))
LABELS = shift_labels(IDS)
WEIGHTS = 7  # products with a weight in a layer
PRODUCTS = 3 * (WEIGHTS + 2)  # of a layer forward and backward, with attention's two
# Operands of those products; "minimal" recomputes the scores alone.
OPERANDS = {
    "int8": {("int8", "int8"): WEIGHTS, ("float32", "float32"): PRODUCTS - WEIGHTS + 1},
    "fp8": {
        ("float8_e4m3fn", "float8_e4m3fn"): WEIGHTS,
        ("float8_e5m2", "float8_e4m3fn"): 2 * WEIGHTS,
        ("float32", "float32"): 3 * 2 + 1,
    },
}
# Relative distance of the loss, and of all gradients together, from those of float32: measured, and doubled.
DISTANCES = {"int8": (2e-4, 0.025), "fp8": (7e-4, 0.13)}


@cache
def draw_params(seed: int = 0) -> Any:
    """Random weights of a tiny model, as it starts."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract_params(CONFIG),
    )


def objective(params: Any, config: TransformerConfig) -> jax.Array:
    hidden, _ = hidden_states(params, config, IDS)
    return loss_from_hidden(hidden, params["head"]["table"], LABELS, 8)[0]


@cache
def graded(matmul_dtype: str) -> tuple[Any, Any]:
    """The loss and its gradient."""
    config = replace(CONFIG, matmul_dtype=matmul_dtype)
    return jax.jit(jax.value_and_grad(objective), static_argnums=1)(draw_params(), config)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        values = list(equation.params.values())
        for inner in jax.tree.leaves(values, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("matmul_dtype", ["fp8", pytest.param("int8", marks=pytest.mark.slow)])
def test_products_of_layers_read_8_bits(matmul_dtype: str):
    """And no others: attention and the embedding stay in floats; gradients of int8 too."""
    config = replace(CONFIG, matmul_dtype=matmul_dtype)
    body = {name: leaf for name, leaf in draw_params().items() if name != "head"}

    def total(params: Any) -> jax.Array:
        return jnp.sum(jnp.sin(hidden_states(params, config, IDS)[0]))

    found = Counter(
        tuple(operand.aval.dtype.name for operand in equation.invars)
        for equation in equations(jax.make_jaxpr(jax.grad(total))(body).jaxpr)
        if equation.primitive.name == "dot_general"
    )
    assert found == OPERANDS[matmul_dtype]


@pytest.mark.parametrize("matmul_dtype", ["int8", pytest.param("fp8", marks=pytest.mark.slow)])
def test_loss_and_gradient_are_near_those_of_float32(matmul_dtype: str):
    (loss, gradient), (exact_loss, exact) = graded(matmul_dtype), graded("")
    near, far = DISTANCES[matmul_dtype]
    assert 0 < abs(loss - exact_loss) < near * exact_loss
    difference = jax.tree.map(jnp.subtract, gradient, exact)
    assert 0 < optax.tree.norm(difference) < far * optax.tree.norm(exact)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {"float32"}


@pytest.mark.slow
def test_scales_on_a_mesh_are_those_of_the_whole():
    """Weights split over the channels that a product sums over."""
    layout = make_layout(MeshConfig.parse("fsdp=4"), jax.devices()[:4])
    config = replace(CONFIG, matmul_dtype="int8")

    def loss(params: Any, layout: Layout | None) -> jax.Array:
        return jnp.sum(jnp.sin(hidden_states(params, config, IDS, layout=layout)[0]))

    alone = jax.jit(jax.grad(loss), static_argnums=1)(draw_params(), None)
    shardings = param_shardings(draw_params(), param_letters(CONFIG), layout)
    params = jax.device_put(draw_params(), shardings)
    split = jax.jit(jax.grad(loss), static_argnums=1)(params, layout)
    difference = optax.tree.norm(jax.tree.map(lambda a, b: a - np.asarray(b), alone, split))
    # Sums in another order round a few numbers the other way; float32 is 1e-2 away.
    assert difference < 5e-3 * optax.tree.norm(alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "matmul_dtype, far", [("int8", 1e-3), pytest.param("fp8", 1e-2, marks=pytest.mark.slow)]
)
def test_a_model_learns_as_in_float32(matmul_dtype: str, far: float):
    """It learns four rows by heart; its loss follows that of float32 all the way."""
    optimizer = optax.adam(1e-2)

    def losses(config: TransformerConfig) -> np.ndarray:
        @jax.jit
        def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
            loss, gradient = jax.value_and_grad(objective)(params, config)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state, loss

        params, state, found = draw_params(), optimizer.init(draw_params()), []
        for _ in range(60):
            params, state, loss = step(params, state)
            found.append(float(loss))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
        return np.array(found)

    exact, found = losses(CONFIG), losses(replace(CONFIG, matmul_dtype=matmul_dtype))
    assert exact[-1] < 0.2 * exact[0]
    np.testing.assert_allclose(found, exact, rtol=0, atol=far * exact[0])


def test_config_names_the_rows_of_the_table():
    assert get_args(get_type_hints(TransformerConfig)["matmul_dtype"]) == ("", *RULES)


def test_unknown_name_adapters_and_inference():
    with pytest.raises(ValueError, match="matmul_dtype 'int7': '', 'int8' or 'fp8'"):
        replace(CONFIG, matmul_dtype="int7")  # pyright: ignore[reportArgumentType]
    config, lora = replace(CONFIG, matmul_dtype="int8"), LoraConfig(rank=2)
    params = adapted(draw_params(), init_adapters(config, lora, jax.random.key(0)), config, lora)
    with pytest.raises(ValueError, match="weight that is a Adapted: .* want matmul_dtype"):
        objective(params, config)
    assert inference_config(config).matmul_dtype == ""
