"""The decoder against itself: every way to compute it gives the same numbers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import TransformerConfig
from lumina_jax.model.chameleon import forward as eager_forward
from lumina_jax.model.chameleon import hidden_states, logits_from_hidden
from lumina_jax.model.params import abstract_params, stack_layers
from lumina_jax.ops.cache import init_cache
from lumina_jax.ops.losses import cross_entropy_and_z, loss_from_hidden, shift_labels

forward = jax.jit(eager_forward, static_argnames=("config", "head_slice"))
PRE = TransformerConfig(
    num_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    mlp_width=24,
    vocab_size=31,
    qk_norm_shards=2,
)
SWIN = replace(PRE, norm_placement="swin")


def draw_params(config: TransformerConfig) -> dict:
    """Random weights, norms' scales and biases too, so that a swapped one shows."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract_params(config),
    )


def draw_ids(num_rows: int = 2, num_tokens: int = 9) -> jax.Array:
    """Random ids of the tiny vocabulary."""
    return jax.random.randint(jax.random.key(2), (num_rows, num_tokens), 0, PRE.vocab_size)


@pytest.mark.parametrize("config", [PRE, SWIN], ids=["pre", "swin"])
def test_forward_is_causal_by_gradient(config):
    """The output at 4 depends on every earlier input and on no later one."""
    params, ids = draw_params(config), draw_ids()

    def output(table_rows: jax.Array) -> jax.Array:
        own_rows = {**params, "embed": {"table": table_rows}}
        distinct = jnp.arange(9)[None]
        return hidden_states(own_rows, replace(config, vocab_size=9), distinct)[0][0, 4].sum()

    gradient = jnp.abs(jax.jit(jax.grad(output))(params["embed"]["table"][ids[0]])).sum(-1)
    assert float(gradient[:5].min()) > 0.0
    assert float(gradient[5:].max()) == 0.0


@pytest.mark.parametrize(
    ("config", "remat"),
    [
        (PRE, "none"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(SWIN, "none"), (PRE, "full"), (PRE, "dots")]
        ),
    ],
)
def test_scanned_equals_unrolled_in_value_and_gradient(config, remat):
    """Also with rematerialisation and with dropout from the same key."""
    params, ids = draw_params(config), draw_ids()
    config = replace(config, dropout=0.2)

    def loss(params, config):
        logits, _ = forward(params, config, ids, dropout_key=jax.random.key(5))
        return cross_entropy_and_z(logits, shift_labels(ids)).cross_entropy

    graded = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    want, gradient = graded(params, config)
    scanned = replace(config, scan_layers=True, remat=remat)
    got, stacked_gradient = graded(stack_layers(params), scanned)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        stacked_gradient,
        stack_layers(gradient),
    )


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_unrolled_remat_equals_plain_gradient(remat):
    """Recomputing one layer's activations changes no gradient."""
    params, ids, config = draw_params(PRE), draw_ids(), replace(PRE, num_layers=1)
    params = {**params, "layers": {"00": params["layers"]["00"]}}

    def loss(params, config):
        return forward(params, config, ids)[0].std()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    want, got = gradient(params, config), gradient(params, replace(config, remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


def test_segments_equal_separate_sequences():
    """Two packed sequences, positions restarting, give what each gives alone."""
    params, ids = draw_params(PRE), draw_ids()
    positions = jnp.array([[0, 1, 2, 3, 0, 1, 2, 3, 4]] * 2)
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 2, 2]] * 2)
    packed, _ = forward(params, PRE, ids, positions, segment_ids=segments)
    first, _ = forward(params, PRE, ids[:, :4])
    second, _ = forward(params, PRE, ids[:, 4:])
    np.testing.assert_allclose(packed, jnp.concatenate([first, second], 1), rtol=1e-4, atol=1e-5)


def test_dropout_needs_a_key():
    """No key, no dropout; with one, outputs differ from the plain ones and by key."""
    config = replace(PRE, dropout=0.5)
    params, ids = draw_params(PRE), draw_ids()
    plain, _ = forward(params, PRE, ids)
    np.testing.assert_array_equal(forward(params, config, ids)[0], plain)
    keys = jax.random.split(jax.random.key(0), 2)
    first, second = (forward(params, config, ids, dropout_key=key)[0] for key in keys)
    assert not np.allclose(first, second)
    assert not np.allclose(first, plain)


def test_head_slice_equals_part_of_all_logits():
    """Ids 7 to 16 only."""
    params, ids = draw_params(PRE), draw_ids()
    logits, _ = forward(params, PRE, ids)
    part, _ = forward(params, PRE, ids, head_slice=(7, 10))
    np.testing.assert_allclose(part, logits[:, :, 7:17], rtol=1e-5, atol=1e-6)


def test_chunked_loss_from_hidden_states_equals_loss_of_logits():
    """`hidden_states` and `loss_from_hidden` together are `forward` and `cross_entropy_and_z`."""
    params, ids = draw_params(PRE), draw_ids()
    labels = shift_labels(ids)
    hidden, _ = jax.jit(hidden_states, static_argnums=1)(params, PRE, ids)
    got = loss_from_hidden(hidden, params["head"]["table"], labels, 4)
    want = cross_entropy_and_z(logits_from_hidden(params, PRE, hidden), labels)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_bfloat16_compute_keeps_float32_logits():
    """Weights stay float32; logits are float32 and near the exact ones."""
    params, ids = draw_params(PRE), draw_ids()
    exact, _ = forward(params, PRE, ids)
    rounded, _ = forward(params, replace(PRE, compute_dtype="bfloat16"), ids)
    assert rounded.dtype == jnp.float32
    # bfloat16 keeps 8 bits: three layers of roundings stay within a few percent of the logits' spread.
    assert float(jnp.abs(rounded - exact).max()) < 0.1 * float(exact.std())


def test_forward_refuses_a_cache_it_cannot_serve():
    """Stacked layers and segments do not go with a cache; the error says what to do."""
    params, ids = draw_params(PRE), draw_ids()
    cache = init_cache(PRE, 2, 9)
    with pytest.raises(ValueError, match="unstack_layers"):
        forward(stack_layers(params), replace(PRE, scan_layers=True), ids, cache=cache)
    with pytest.raises(ValueError, match="segment_ids"):
        forward(params, PRE, ids, cache=cache, segment_ids=jnp.ones_like(ids))
