"""What a model does on a mesh beside its products: the embedding's exchange, and norms' gradients summed once."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import MeshConfig
from lumina_jax.model.chameleon import Embedding, hidden_states
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.plan.collectives import collectives
from lumina_jax.plan.loops import Program
from lumina_jax.sharding import Layout, batch_sharding, letter_ways, make_layout, param_shardings

CONFIG = TransformerConfig(3, 16, 4, 4, 8, 24, 512, qk_norm_shards=2, scan_layers=True)
IDS = np.random.default_rng(0).integers(0, 512, (8, 8)).astype(np.int32)
SLOW = pytest.mark.slow
MESHES = ["fsdp=8", "data=2,fsdp=4", "fsdp=4,tensor=2", "fsdp=4,sequence=2"]


def layout_of(mesh: str) -> Layout:
    return make_layout(MeshConfig.parse(mesh))


@cache
def draw() -> Any:
    """Random weights, by numpy."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), abstract_params(CONFIG)
    )


def looked_up(table: Any, ids: Any, layout: Layout | None) -> Any:
    """Sum of a function of the rows of `ids`, and the rows."""
    x: Any = Embedding(CONFIG, layout).apply({"params": {"table": table}}, ids)
    return jnp.sum(jnp.sin(x)), x


@pytest.mark.parametrize(
    "mesh", [pytest.param(m, marks=() if m == "fsdp=4,sequence=2" else SLOW) for m in MESHES]
)
def test_embedding_is_looked_up_where_it_lies(mesh: str):
    """Devices exchange columns: the table and its gradient are never gathered."""
    layout, table = layout_of(mesh), draw()["embed"]["table"]
    places = param_shardings(abstract_params(CONFIG), param_letters(CONFIG), layout)
    place = places["embed"]["table"]
    wanted = jax.jit(jax.value_and_grad(looked_up, has_aux=True), static_argnums=2)(
        table, IDS, None
    )
    step = jax.jit(
        jax.value_and_grad(looked_up, has_aux=True), static_argnums=2, out_shardings=None
    )
    given = jax.device_put(table, place), jax.device_put(IDS, batch_sharding(layout))
    found = step(*given, layout)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert found[1].sharding.is_equivalent_to(place, 2)
    sent = collectives(Program(step.lower(*given, layout).compile().as_text()))
    assert {each.kind for each in sent} >= {"all-to-all", "all-gather"}  # that of ids
    pieces = found[1].addressable_shards[0].data.nbytes
    for each in sent:  # copies of the table sum a device's piece of the gradient
        largest = (
            pieces if each.kind == "all-reduce" else found[0][1].nbytes // letter_ways("B", layout)
        )
        assert each.result_bytes <= largest, each


def gradient(layout: Layout | None) -> Any:
    """The step that gives it, and its arguments."""
    params: Any = draw()
    ids: Any = IDS
    options: dict[str, Any] = {}
    if layout is not None:
        places = param_shardings(abstract_params(CONFIG), param_letters(CONFIG), layout)
        params, ids = jax.device_put(params, places), jax.device_put(IDS, batch_sharding(layout))
        options = {"out_shardings": places}

    def value(params: Any, ids: Any) -> Any:
        return jnp.mean(jnp.sin(3 * hidden_states(params, CONFIG, ids, layout=layout)[0]))

    return jax.jit(jax.grad(value), **options), (params, ids)


@pytest.mark.parametrize(
    "mesh", [pytest.param(m, marks=() if m == "fsdp=8" else SLOW) for m in MESHES]
)
def test_norms_gradients_are_summed_over_devices_once_after_all_layers(mesh: str):
    """Inside the loops over layers only matrices and activations are sent, and between parts of a sequence their
    sums of the norms' gradients; gradients are those of one device.
    """
    layout = layout_of(mesh)
    step, given = gradient(layout)
    alone, arguments = gradient(None)
    found, wanted = step(*given), alone(*arguments)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=str(path))
    sent = collectives(Program(step.lower(*given).compile().as_text()))
    in_loops = [each for each in sent if each.loop]
    norms = [each for each in in_loops if "_norm/" in each.op_name]
    assert in_loops and [each for each in norms if each.group_size > letter_ways("S", layout)] == []
