"""What each policy keeps and recomputes, and that gradients do not depend on it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax import config as config_module
from lumina_jax.config import TransformerConfig
from lumina_jax.model.chameleon import hidden_states
from lumina_jax.model.params import abstract_params
from lumina_jax.model.remat import CUDNN_FORWARD, REMAT
from lumina_jax.ops.attention import attention
from lumina_jax.ops.splash import make_splash
from lumina_jax.plan.costs import REMATS

CONFIG = TransformerConfig(
    num_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    mlp_width=24,
    vocab_size=31,
)
SCANNED = replace(CONFIG, scan_layers=True)
IDS = jnp.asarray(np.random.default_rng(1).integers(0, 31, (3, 7)))
PRODUCTS = 9  # of a layer: q, k, v, scores, mixed, o, gate, up, down
D, NH, KH, F = CONFIG.width, 4 * 8, 2 * 8, CONFIG.mlp_width

# Products of a layer that the backward pass does again; floats a token that each layer keeps, in all and on the host.
PROMISED = {
    "full": (8, D, 0),  # down's own result is never read
    "dots": (2, D + NH + 2 * KH + D + 2 * F, 0),  # not scores and mixed, which have batch axes
    "save_qkv": (5, D + NH + 2 * KH, 0),
    "save_attention": (7, D + NH, 0),
    "save_out_proj": (7, D + D, 0),
    "minimal": (1, D + NH + 2 * KH + NH + D + 2 * F, 0),  # scores alone
    "offload_qkv": (5, D + NH + 2 * KH, NH + 2 * KH),
    "offload_projections": (4, D + NH + 2 * KH + D, D + NH + 2 * KH + D),
}


QUICK = ("full", "save_attention", "minimal", "offload_projections")  # the others are slow tests


def rows_of(names: Iterable[str]) -> list[Any]:
    """`names` as parameters of a test, all but QUICK marked slow."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=() if name in QUICK else slow) for name in names]


@cache
def draw_params(config: TransformerConfig) -> Any:
    """Random weights of a tiny model."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract_params(config),
    )


def objective(params: Any, config: TransformerConfig) -> jax.Array:
    """A number that depends on every weight but the head."""
    return jnp.mean(jnp.sin(hidden_states(params, config, IDS)[0]) ** 2)


@cache
def gradient(scan_layers: bool, remat: str) -> Any:
    config = replace(CONFIG, scan_layers=scan_layers, remat=remat)
    return jax.jit(jax.grad(objective), static_argnums=1)(draw_params(config), config)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr and of those inside it; a loop's body counts once."""
    for equation in jaxpr.eqns:
        if not equation.outvars:  # a call none of whose results is read: it is not compiled
            continue
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@cache
def num_products(remat: str) -> int:
    """Products in the gradient of a scanned model: those of one layer, forward and backward."""
    config = replace(SCANNED, remat=remat)
    jaxpr = jax.make_jaxpr(jax.grad(lambda params: objective(params, config)))(draw_params(config))
    return Counter(eqn.primitive.name for eqn in equations(jaxpr.jaxpr))["dot_general"]


def kept(remat: str) -> tuple[int, int]:
    """Floats a token and layer that the backward pass is handed, in all and on the host."""
    config = replace(SCANNED, remat=remat)
    backward = jax.make_jaxpr(lambda params: jax.vjp(lambda p: objective(p, config), params)[1])
    handed = backward(draw_params(config)).out_avals
    num_tokens = config.num_layers * IDS.size
    of_tokens = [aval for aval in handed if aval.shape[:3] == (config.num_layers, *IDS.shape)]
    on_host = [aval for aval in of_tokens if aval.memory_space == jax.memory.Space.Host]
    return sum(a.size for a in of_tokens) // num_tokens, sum(a.size for a in on_host) // num_tokens


def test_config_names_the_rows_of_the_table():
    assert get_args(config_module.Remat) == tuple(REMAT)
    with pytest.raises(ValueError, match="remat 'some': one of .*'minimal'"):
        replace(CONFIG, remat="some")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("scan_layers", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("remat", rows_of(name for name in REMAT if name != "none"))
def test_gradients_are_those_without_recomputation(scan_layers: bool, remat: str):
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-8),
        gradient(scan_layers, remat),
        gradient(scan_layers, "none"),
    )


def test_nothing_is_done_again_without_recomputation():
    assert num_products("none") == 3 * PRODUCTS


@pytest.mark.parametrize("remat", rows_of(PROMISED))
def test_products_done_again_are_as_promised(remat: str):
    assert num_products(remat) - num_products("none") == PROMISED[remat][0]


@pytest.mark.parametrize("remat", rows_of(PROMISED))
def test_memory_kept_is_as_promised(remat: str):
    assert kept(remat) == PROMISED[remat][1:]


def test_cudnn_kernels_outputs_are_kept_with_attention():
    """By the primitive's name, which is JAX's own."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    primitive = cudnn._dot_product_attention_fwd_p_wrapper
    assert primitive.name == CUDNN_FORWARD
    for name, wanted in {"save_attention": True, "minimal": True, "save_qkv": False}.items():
        policy = REMAT[name].policy
        assert policy is not None
        assert policy(primitive) is wanted


def num_splash_kernels(remat: str) -> int:
    """Kernels in a TPU's gradient of attention: forward, perhaps forward again, and two going back."""
    splash, shape = make_splash(128, 2), jax.ShapeDtypeStruct((1, 128, 2, 128), float)
    row = REMAT[remat]

    def attend(*arrays: Any) -> jax.Array:
        return jnp.sin(attention(*arrays, kernel="splash", splash=splash))

    kept = jax.checkpoint(attend, policy=row.policy) if row.recompute else attend
    graded = jax.grad(lambda *arrays: kept(*arrays).sum(), (0, 1, 2))
    jaxpr = jax.make_jaxpr(graded)(shape, shape, shape)
    return Counter(eqn.primitive.name for eqn in equations(jaxpr.jaxpr))["pallas_call"]


@pytest.mark.parametrize("remat", rows_of(REMAT))
def test_splash_runs_forward_again_where_plans_count_it(remat: str):
    """Kept are its output and its normalisers: all that its backward kernels read of it."""
    assert num_splash_kernels(remat) == 3 + REMATS[remat].attention


def test_plans_count_what_each_policy_does_again():
    """Products with weights but for down's own, whose result is never read; of XLA's attention scores, and mixed."""
    assert tuple(REMATS) == tuple(REMAT)
    for remat, (again, _, _) in PROMISED.items():
        counted = REMATS[remat]
        assert again == len(counted.weights - {"down"}) + 1 + counted.attention, remat
