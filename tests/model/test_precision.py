"""Models in fewer bits: which leaves are quantised, how near they stay, shards, and what is compiled."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import SampleConfig, TransformerConfig
from lumina_jax.experiment import MeshConfig
from lumina_jax.model.chameleon import forward as eager_forward
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.model.precision import (
    PRECISIONS,
    keep_params,
    keeper,
    quantize_params,
    weight_bytes,
    with_precision,
)
from lumina_jax.ops.cache import cache_bytes, init_cache, rewind
from lumina_jax.ops.products import is_stored
from lumina_jax.ops.quantize import QuantizedSlots, QuantizedWeight
from lumina_jax.sampling.policy import make_policy
from lumina_jax.sampling.sequential import Program, draw_run
from lumina_jax.sharding import STRATEGIES, make_layout, param_shardings

CONFIG = TransformerConfig(
    num_layers=2,
    width=64,
    num_heads=8,
    num_kv_heads=8,
    head_size=32,
    mlp_width=128,
    vocab_size=64,
)
RNG = np.random.default_rng(0)
PARAMS = jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * RNG.normal(size=leaf.shape), leaf.dtype), abstract_params(CONFIG)
)
IDS = jnp.asarray(RNG.integers(0, 64, (2, 12)), jnp.int32)
forward = jax.jit(eager_forward, static_argnames=("config", "head_slice"))
AXES = {  # of every strategy, on eight devices
    "data": (("data", 8),),
    "fsdp": (("fsdp", 8),),
    "tensor": (("tensor", 8),),
    "data_fsdp": (("data", 2), ("fsdp", 4)),
    "data_tensor": (("data", 2), ("tensor", 4)),
    "fsdp_tensor": (("fsdp", 2), ("tensor", 4)),
    "data_fsdp_tensor": (("data", 2), ("fsdp", 2), ("tensor", 2)),
}


def dequantised(params):
    """The same weights as float arrays."""
    return jax.tree.map(
        lambda leaf: leaf.array() if isinstance(leaf, QuantizedWeight) else leaf,
        params,
        is_leaf=is_stored,
    )


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_matrices_and_head_are_stored_in_whole_numbers_norms_and_embedding_in_floats(name) -> None:
    params = quantize_params(PARAMS, CONFIG, name)
    layer = params["layers"]["01"]
    stored = [params["head"]["table"], *(layer[key] for key in "q k v o gate up down".split())]
    assert {leaf.values.dtype.name for leaf in stored} == {name}
    kept = params["embed"]["table"], params["final_norm"]["scale"], layer["q_norm"]["bias"]
    assert {leaf.dtype.name for leaf in kept} == {"float32"}


@pytest.mark.parametrize("name", PRECISIONS)
def test_forward_equals_that_of_the_weights_it_stands_for(name) -> None:
    """Without a cache only the weights are rounded; bfloat16 also computes in 8 bits."""
    params, config = quantize_params(PARAMS, CONFIG, name), with_precision(CONFIG, name)
    want, _ = forward(dequantised(params), config, IDS)
    got, _ = forward(params, config, IDS)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    sliced, _ = forward(params, config, IDS, head_slice=(9, 20))
    np.testing.assert_allclose(sliced, want[..., 9:29], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "share"), [("int8_weights", 0.02), ("int8", 0.03), ("int4", 0.3)])
def test_logits_stay_near_those_of_float32(name: str, share: float) -> None:
    """In windows over the cache; the shares are about twice what is found, of the logits' own deviation."""
    config, params = with_precision(CONFIG, name), quantize_params(PARAMS, CONFIG, name)
    want, _ = forward(PARAMS, CONFIG, IDS)
    cache = init_cache(config, 2, 15)
    first, cache = forward(params, config, IDS[:, :7], cache=cache)
    second, _ = forward(params, config, IDS[:, 7:], cache=cache)
    moved = jnp.concatenate([first, second], 1) - want
    assert 0 < jnp.std(moved) < share * jnp.std(want)


def test_int8_cache_is_rewound_and_rows_are_replaced_leaf_by_leaf() -> None:
    """Wrong tokens, rewound; and row 1 put in the place of row 0 by `.at[rows].set` on every leaf."""
    config = replace(CONFIG, cache_dtype="int8")
    _, cache = forward(PARAMS, config, IDS[:, :5], cache=init_cache(config, 2, 15))
    assert isinstance(cache.keys[0], QuantizedSlots)
    want, _ = forward(PARAMS, config, IDS[:, 5:7], cache=cache)
    _, wrong = forward(PARAMS, config, IDS[:, 5:9] + 1, cache=cache)
    got, _ = forward(PARAMS, config, IDS[:, 5:7], cache=rewind(wrong, jnp.array([5, 5])))
    np.testing.assert_array_equal(got, want)
    moved = jax.tree.map(lambda leaf: leaf.at[jnp.array([0])].set(leaf[1:]), cache)
    both, _ = forward(PARAMS, config, IDS[jnp.array([1, 1]), 5:7], cache=moved)
    np.testing.assert_allclose(both[0], want[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if "sequence" not in name])
def test_sharded_weights_stay_in_their_shards_and_give_the_same_logits(strategy: str) -> None:
    layout = make_layout(MeshConfig(axes=AXES[strategy], strategy=strategy))
    places = param_shardings(PARAMS, param_letters(CONFIG), layout)
    single, sharded = (
        quantize_params(params, CONFIG, "int8")
        for params in (PARAMS, jax.device_put(PARAMS, places))
    )
    weight, place = sharded["layers"]["00"]["o"], places["layers"]["00"]["o"]
    assert weight.values.sharding.is_equivalent_to(place, 3)
    spec = jax.sharding.PartitionSpec(None, None, place.spec[2])
    assert weight.scale.sharding.is_equivalent_to(jax.NamedSharding(layout.mesh, spec), 3)
    for one, other in zip(jax.tree.leaves(single), jax.tree.leaves(sharded), strict=True):
        np.testing.assert_array_equal(one, other)
    want, _ = forward(single, CONFIG, IDS)
    np.testing.assert_allclose(forward(sharded, CONFIG, IDS)[0], want, rtol=1e-4, atol=1e-4)


def test_quantizing_may_be_jitted_and_leaves_stored_forms_alone() -> None:
    params = quantize_params(PARAMS, CONFIG, "int8")
    jitted = jax.jit(lambda tree: quantize_params(tree, CONFIG, "int8"))(PARAMS)
    again = keep_params(params, keeper(CONFIG, "int8"))
    for want, *others in zip(*map(jax.tree.leaves, (params, jitted, again)), strict=True):
        for got in others:
            np.testing.assert_array_equal(got, want)


def test_bytes_count_packed_numbers_and_scales() -> None:
    tree = {name: jnp.zeros((128, 6), name) for name in ("float32", "bfloat16", "int8", "int4")}
    assert weight_bytes(tree) == 128 * 6 * (4 + 2 + 1) + 128 * 3
    token = 2 * CONFIG.num_layers * CONFIG.num_kv_heads
    assert cache_bytes(CONFIG, 3, 5) == 3 * 5 * token * 32 * 4 + 3 * 4
    eighth = replace(CONFIG, cache_dtype="int8")
    assert cache_bytes(eighth, 3, 5) == 3 * 5 * token * (32 + 4) + 3 * 4


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(
        ValueError, match="unknown precision 'int3': choose one of bfloat16, float32, int4"
    ):
        with_precision(CONFIG, "int3")
    with pytest.raises(ValueError, match="cache_dtype 'int4': None or one of"):
        replace(CONFIG, cache_dtype="int4")


def temporary_bytes(config: TransformerConfig, name: str) -> int:
    """What a compiled run of codes takes beside its weights and its cache."""
    config = with_precision(config, name)
    floats = abstract_params(config)
    params = jax.eval_shape(lambda tree: quantize_params(tree, config, name), floats)
    cache = jax.eval_shape(lambda: init_cache(config, 2, 8))
    policy = make_policy([SampleConfig()], [0])
    window, place = jnp.zeros((2, 2), jnp.int32), jnp.zeros(3, jnp.int32)
    program = Program(config, (0, 32), 128)
    compiled = draw_run.lower(params, cache, window, place, policy, program).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_drawing_holds_no_copy_of_the_model_in_floats() -> None:
    """On a CPU one large weight at a time is copied: twice the layers take no more room, less than one float layer."""
    wide = replace(CONFIG, width=512, mlp_width=1024, num_heads=16, num_kv_heads=16)
    few, many = (temporary_bytes(replace(wide, num_layers=n), "int8") for n in (1, 3))
    layer_bytes = 4 * (4 * 512 * 512 + 3 * 512 * 1024)
    assert many - few < layer_bytes / 20
    assert few < layer_bytes
