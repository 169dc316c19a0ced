"""Placement of weights and activations on eight fake devices."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import MeshConfig
from lumina_jax.model.chameleon import forward
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.model.presets import PRESETS
from lumina_jax.ops.losses import cross_entropy_and_z, shift_labels
from lumina_jax.sharding import (
    STRATEGIES,
    Layout,
    batch_sharding,
    batch_ways,
    constrain,
    describe,
    make_layout,
    make_mesh,
    param_shardings,
    place_rows,
    replicated,
    state_shardings,
)

MESHES = {
    "data": (("data", -1),),
    "fsdp": (("fsdp", 8),),
    "tensor": (("tensor", 4),),
    "data_tensor": (("data", 2), ("tensor", 4)),
    "data_fsdp": (("data", 2), ("fsdp", -1)),
    "fsdp_tensor": (("fsdp", -1), ("tensor", 2)),
    "data_fsdp_tensor": (("data", 2), ("fsdp", 2), ("tensor", -1)),
    "sequence": (("sequence", 2),),
    "fsdp_sequence": (("fsdp", 4), ("sequence", 2)),
    "data_fsdp_sequence": (("data", 2), ("fsdp", 2), ("sequence", 2)),
}
CONFIG = TransformerConfig(
    num_layers=1,
    width=16,
    num_heads=8,
    num_kv_heads=4,
    head_size=4,
    mlp_width=24,
    vocab_size=32,
    qk_norm_shards=2,
)


def build_layout(strategy: str) -> Layout:
    """The strategy on its mesh above, over as many of the eight devices as the mesh wants."""
    axes = MESHES[strategy]
    sizes = [size for _, size in axes]
    num_devices = 8 if -1 in sizes else int(np.prod(sizes))
    return make_layout(MeshConfig(strategy, axes), jax.devices()[:num_devices])


def loss(params, config, ids, layout=None):
    """Cross-entropy of the next token."""
    logits, _ = forward(params, config, ids, layout=layout)
    return cross_entropy_and_z(logits, shift_labels(ids)).cross_entropy


@functools.cache
def single_device(config: TransformerConfig):
    """Weights, ids, and loss and gradient on one device."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract_params(config),
    )
    ids = jnp.asarray(rng.integers(0, 32, (8, 6)), jnp.int32)
    return params, ids, jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, config, ids)


@pytest.mark.parametrize(
    ("strategy", "scan_layers"),
    [
        *(
            pytest.param(name, False, marks=[] if name == "fsdp_tensor" else pytest.mark.slow)
            for name in STRATEGIES
        ),
        ("data_fsdp_tensor", True),
    ],
)
def test_sharded_loss_and_gradient_equal_single_device(strategy, scan_layers):
    """Every strategy computes the same function, its gradients placed like the weights."""
    config = replace(CONFIG, scan_layers=scan_layers)
    layout = build_layout(strategy)
    params, ids, (want, want_gradient) = single_device(config)
    shardings = param_shardings(abstract_params(config), param_letters(config), layout)
    step = jax.jit(
        jax.value_and_grad(lambda params, ids: loss(params, config, ids, layout)),
        in_shardings=(shardings, batch_sharding(layout)),
        out_shardings=(replicated(layout), shardings),
    )
    placed = jax.device_put(params, shardings), jax.device_put(ids, batch_sharding(layout))
    got, gradient = step(*placed)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, want_gradient
    )


def test_param_shardings_follow_the_letters():
    """Matrices split width over fsdp and heads, F and V over tensor; the embedding has its own row."""
    layout = build_layout("fsdp_tensor")
    got = param_shardings(abstract_params(CONFIG), param_letters(CONFIG), layout)
    layer = got["layers"]["00"]
    assert layer["q"].spec == P("fsdp", "tensor", None)
    assert layer["o"].spec == P("tensor", None, "fsdp")
    assert layer["down"].spec == P("tensor", "fsdp")
    assert layer["q_norm"]["bias"].spec == P(None, None)
    assert got["head"]["table"].spec == P("tensor", "fsdp")
    assert got["embed"]["table"].spec == P(None, ("tensor", "fsdp"))


def test_stacked_params_keep_the_layer_axis_whole():
    """ "L D N H" splits D and N only."""
    config = replace(CONFIG, scan_layers=True)
    layout = build_layout("fsdp_tensor")
    got = param_shardings(abstract_params(config), param_letters(config), layout)
    assert got["layers"]["q"].spec == P(None, "fsdp", "tensor", None)


def test_indivisible_weight_names_itself_and_what_fits():
    """Four key heads on an eight-way tensor axis: an error, never a silent copy."""
    layout = make_layout(MeshConfig("tensor", (("tensor", 8),)))
    with pytest.raises(
        ValueError, match=r"layers/00/k: K of size 4 .* 8 ways .*'?tensor.* 1, 2, 4"
    ):
        param_shardings(abstract_params(CONFIG), param_letters(CONFIG), layout)


def test_unknown_letter_is_an_error():
    """A letter without a row in the strategy does not default to replication."""
    tree = {"stem": jax.ShapeDtypeStruct((8, 8), jnp.float32)}
    with pytest.raises(ValueError, match=r"stem: .*no weights row for letter 'Z'"):
        param_shardings(tree, {"stem": "D Z"}, build_layout("fsdp"))


def test_state_shardings_place_moments_like_their_weights():
    """Adam's moments follow the weights, its counter is replicated, a large stranger is refused."""
    layout = build_layout("fsdp_tensor")
    abstract, letters = abstract_params(CONFIG), param_letters(CONFIG)
    state = jax.eval_shape(optax.adam(1e-3).init, abstract)
    got = state_shardings((abstract, state), letters, layout)
    assert got[1][0].mu["layers"]["00"]["up"].spec == P("fsdp", "tensor")
    assert got[1][0].mu["embed"]["table"].spec == P(None, ("tensor", "fsdp"))
    assert got[1][0].count.spec == P()
    stranger = {"history": jax.ShapeDtypeStruct((100, 100), jnp.float32)}
    with pytest.raises(ValueError, match="history"):
        state_shardings(stranger, letters, layout)


def test_constrain_checks_activations():
    """Three rows do not split eight ways; without a layout nothing happens."""
    x = jnp.zeros((3, 4, 16))
    assert constrain(x, "B S D", None) is x
    with pytest.raises(ValueError, match="B of size 3"):
        constrain(x, "B S D", build_layout("data"))


@pytest.mark.parametrize(
    ("axes", "match"),
    [
        ((("data", 3),), "does not fit 8 devices"),
        ((("data", -1), ("fsdp", -1)), "at most one"),
        ((("data", 4),), "does not fit 8 devices"),
        ((("data", 0),), "does not fit 8 devices"),
    ],
)
def test_make_mesh_refuses_what_does_not_fit(axes, match):
    """Sizes that do not multiply to the number of devices."""
    with pytest.raises(ValueError, match=match):
        make_mesh(MeshConfig("data", axes))


def test_mesh_config_is_parsed_from_a_command_line():
    """The strategy is the row named after the axes."""
    parsed = MeshConfig.parse("data=2, tensor=4")
    assert parsed == MeshConfig("data_tensor", (("data", 2), ("tensor", 4)))
    assert (parsed.num_devices, MeshConfig.parse("tensor=8").num_devices) == (8, 8)


@pytest.mark.parametrize("text", ["", "8", "tensor", "tensor=", "tensor=0", "tensor=-1", "=8"])
def test_mesh_config_refuses_what_is_no_mesh(text):
    """With the form that is wanted."""
    with pytest.raises(ValueError, match="want AXIS=DEVICES, such as tensor=8"):
        MeshConfig.parse(text)


def test_batch_ways_counts_the_batch_axes_alone():
    """One without a mesh."""
    ways = [batch_ways(build_layout(name)) for name in ("tensor", "data_tensor", "data_fsdp")]
    assert [batch_ways(None), *ways] == [1, 1, 2, 8]


def test_place_rows_splits_rows_and_keeps_the_rest_whole():
    """The identity without a layout."""
    x = jnp.zeros((4, 6))
    assert place_rows(x, None) is x
    placed = jax.jit(lambda x: place_rows(x, build_layout("data_tensor")))(x)
    assert placed.addressable_shards[0].data.shape == (2, 6)


def test_layout_wants_exactly_the_strategys_axes():
    """An unused axis would repeat the same work on every device along it."""
    mesh = make_mesh(MeshConfig("fsdp", (("fsdp", 4), ("tensor", 2))))
    with pytest.raises(ValueError, match=r"'fsdp' uses the mesh axes \['fsdp'\]"):
        Layout(mesh, "fsdp")
    with pytest.raises(ValueError, match="did you mean 'tensor'"):
        Layout(mesh, "tenser")


def test_describe_sums_what_one_device_holds():
    """float32 weights of the tiny model, replicated: 4 bytes each."""
    layout = build_layout("data")
    abstract = abstract_params(CONFIG)
    table = describe(abstract, param_letters(CONFIG), layout)
    total = sum(leaf.size for leaf in jax.tree.leaves(abstract)) * 4 / 2**20
    assert table.endswith(f"{total:.2f} MiB per device")
    assert "layers/00/q_norm/scale" in table


def test_7b_training_gradient_lowers_on_eight_devices():
    """True sizes, bfloat16 compute, scan and remat, fsdp x tensor: lowered, not compiled."""
    config = replace(
        PRESETS["7b"].transformer, scan_layers=True, remat="full", compute_dtype="bfloat16"
    )
    layout = build_layout("fsdp_tensor")
    abstract = abstract_params(config)
    shardings = param_shardings(abstract, param_letters(config), layout)
    step = jax.jit(
        jax.grad(lambda params, ids: loss(params, config, ids, layout)),
        in_shardings=(shardings, batch_sharding(layout)),
        out_shardings=shardings,
    )
    lowered = step.lower(abstract, jax.ShapeDtypeStruct((8, 1024), jnp.int32))
    assert lowered.out_info["layers"]["q"].shape == (32, 4096, 32, 128)
