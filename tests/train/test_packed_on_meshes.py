"""A packed step, norms before or after branches, in every strategy: loss and gradient of one device."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lumina_jax.config import ModelConfig, TransformerConfig
from lumina_jax.experiment import LossConfig
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.sharding import (
    STRATEGIES,
    Layout,
    batch_sharding,
    replicated,
    state_shardings,
)
from lumina_jax.train.step import init_state, make_train_step
from tests.meshes import layout_of

PRE = TransformerConfig(2, 16, 4, 4, 4, 24, 64, scan_layers=True, remat="full")
PLACEMENTS = {"pre": PRE, "swin": replace(PRE, norm_placement="swin", qk_norm_shards=2)}
QUICK = (("fsdp_sequence", "swin"),)
LOSS = LossConfig(z_loss=0.01, logits_chunk=5)
KEEPS_GRADIENT = optax.trace(decay=0.0)  # its state is the gradient


def batch() -> dict[str, np.ndarray]:
    """Eight rows of 16: three segments that end elsewhere in each, then padding; a third is not predicted."""
    rng = np.random.default_rng(0)
    ends = np.sort(rng.integers(1, 16, (8, 3)))
    place = np.arange(16)
    passed = (place >= ends[:, :, None]).sum(1)
    segments = np.where(passed == 3, 0, passed + 1)
    starts = np.where(passed > 0, np.take_along_axis(ends, np.maximum(passed - 1, 0), 1), 0)
    tokens = rng.integers(0, 64, (8, 16))
    labels = np.where((rng.random((8, 16)) < 0.7) & (segments > 0), tokens, -100)
    found = {
        "tokens": tokens,
        "labels": labels,
        "segment_ids": segments,
        "positions": place - starts,
    }
    return {name: rows.astype(np.int32) for name, rows in found.items()}


def run(config: TransformerConfig, layout: Layout | None) -> tuple[dict[str, Any], Any, str]:
    """Metrics and gradient of one packed step, and its program."""
    step = make_train_step(ModelConfig(config), LOSS, KEEPS_GRADIENT, layout=layout, packed=True)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype),
        abstract_params(config),
    )
    state: Any = init_state(params, KEEPS_GRADIENT)
    rows: Any = batch()
    options: dict[str, Any] = {}
    if layout is not None:
        places = state_shardings(state, param_letters(config), layout)
        state = jax.device_put(state, places)
        rows = jax.device_put(rows, batch_sharding(layout))
        options = {"out_shardings": (places, replicated(layout))}
    given = (state, rows, jax.random.key(0))
    compiled = jax.jit(step, **options).lower(*given).compile()
    after, metrics = compiled(*given)
    return metrics, after.opt_state.trace, compiled.as_text() or ""


@cache
def on_one_device(placement: str) -> tuple[dict[str, Any], Any, str]:
    return run(PLACEMENTS[placement], None)


@pytest.mark.parametrize(
    ("strategy", "placement"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
        for pair in ((strategy, placement) for strategy in STRATEGIES for placement in PLACEMENTS)
    ],
)
def test_packed_step_on_a_mesh_equals_one_device(strategy: str, placement: str):
    """And no device ever has the activations of all rows, as when a compiler finds no way from place to place."""
    layout = layout_of(strategy)
    found, gradient, program = run(PLACEMENTS[placement], layout)
    wanted, wanted_gradient, alone = on_one_device(placement)
    assert int(found["tokens"]) == int(wanted["tokens"]) > 30
    for name in ("loss", "ce", "z", "grad_norm"):
        assert float(found[name]) == pytest.approx(float(wanted[name]), rel=1e-5), name
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True):
        scale = float(np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * scale)
    assert "[8,16,16]" in alone
    assert ("[8,16,16]" in program) == (strategy == "tensor")
