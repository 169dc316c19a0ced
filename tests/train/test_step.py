"""The transformer's step: the same on every mesh, chunked or not, packed or not."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lumina_jax.config import ModelConfig, TransformerConfig
from lumina_jax.experiment import LossConfig, MeshConfig, OptimizerConfig
from lumina_jax.model.chameleon import forward
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.ops.losses import TokenLosses, shift_labels, token_losses
from lumina_jax.sharding import (
    STRATEGIES,
    batch_sharding,
    make_layout,
    replicated,
    state_shardings,
)
from lumina_jax.train.optimizer import make_optimizer
from lumina_jax.train.step import (
    State,
    accumulated,
    average,
    init_state,
    loss_sums,
    make_train_step,
    num_right,
)
from lumina_jax.unirep.kinds import AREAS_PX, TASK_NAMES

MODEL = ModelConfig(TransformerConfig(1, 16, 4, 2, 8, 32, 64))
QUICK = {"xla_backend_optimization_level": 0}  # of the compiler, for programs that run once
LOSS = LossConfig(z_loss=0.01)
MESHES = {
    "data": (("data", 8),),
    "fsdp": (("fsdp", 8),),
    "tensor": (("tensor", 2),),
    "data_fsdp": (("data", 2), ("fsdp", 4)),
    "data_tensor": (("data", 4), ("tensor", 2)),
    "fsdp_tensor": (("fsdp", 4), ("tensor", 2)),
    "data_fsdp_tensor": (("data", 2), ("fsdp", 2), ("tensor", 2)),
    "sequence": (("sequence", 2),),
    "fsdp_sequence": (("fsdp", 4), ("sequence", 2)),
    "data_fsdp_sequence": (("data", 2), ("fsdp", 2), ("sequence", 2)),
}
# a large eps keeps AdamW's first update smooth in the gradient; 1e-8 would amplify rounding to its sign
OPTIMIZER = make_optimizer(OptimizerConfig(eps=1e-2), optax.constant_schedule(1e-2))


def fresh_state(ema_decay: float = 0.0) -> State:
    """Random weights; drawn by numpy, because jax would compile every draw."""
    rng = np.random.default_rng(0)
    shapes = abstract_params(MODEL.transformer)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes
    )
    return init_state(params, OPTIMIZER, ema_decay)


def random_batch(num_rows: int = 8, length: int = 12) -> dict[str, np.ndarray]:
    """Rows of different lengths; a third of the labels is not predicted."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 64, (num_rows, length)).astype(np.int32)
    segments = (np.arange(length) < rng.integers(5, length + 1, (num_rows, 1))).astype(np.int32)
    predicted = (rng.random((num_rows, length)) < 0.7) & (segments == 1)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    labels = np.where(predicted, tokens, -100).astype(np.int32)
    return {
        "tokens": tokens,
        "labels": labels,
        "segment_ids": segments,
        "positions": positions,
    }


def run(step: Any, state: Any, batch: dict, **jit: Any) -> tuple[Any, Any]:
    """One jitted step, compiled without XLA's slower optimisations."""
    batch = jax.tree.map(jnp.asarray, batch)
    return jax.jit(step, compiler_options=QUICK, **jit)(state, batch, jax.random.key(1))


def assert_close(first: Any, second: Any, atol: float) -> None:
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=atol, rtol=0)


@pytest.fixture(scope="module")
def one_step() -> tuple[State, dict[str, Any]]:
    return run(make_train_step(MODEL, LOSS, OPTIMIZER), fresh_state(), random_batch())


def test_z_loss_is_weighted_into_the_loss(one_step: tuple):
    metrics = one_step[1]
    assert float(metrics["loss"]) == pytest.approx(
        float(metrics["ce"] + 0.01 * metrics["z"]), rel=1e-6
    )


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(name, marks=[] if name == "data_fsdp_tensor" else pytest.mark.slow)
        for name in STRATEGIES
    ],
)
def test_sharded_step_equals_single_device(strategy: str, one_step: tuple):
    sizes = MESHES[strategy]
    devices = jax.devices()[: int(np.prod([size for _, size in sizes]))]
    layout = make_layout(MeshConfig(strategy, sizes), devices)
    state = fresh_state()
    places = state_shardings(state, param_letters(MODEL.transformer), layout)
    step = make_train_step(MODEL, LOSS, OPTIMIZER, layout=layout)
    found = run(
        step,
        jax.device_put(state, places),
        jax.device_put(random_batch(), batch_sharding(layout)),
        in_shardings=(places, batch_sharding(layout), None),
        out_shardings=(places, replicated(layout)),
    )
    assert_close(found, one_step, 1e-5)


def test_step_advances_and_learns():
    step = jax.jit(make_train_step(MODEL, LOSS, OPTIMIZER), compiler_options=QUICK)
    state, batch, losses = fresh_state(), jax.tree.map(jnp.asarray, random_batch()), []
    for _ in range(3):
        state, metrics = step(state, batch, jax.random.key(1))
        losses.append(float(metrics["loss"]))
    assert int(state.step) == 3
    assert losses[2] < losses[1] < losses[0] < 2 * np.log(64)


def test_loss_ignores_what_is_not_predicted(one_step: tuple):
    batch = random_batch()
    rng = np.random.default_rng(1)
    padding = batch["segment_ids"] == 0
    changed = np.where(padding, rng.integers(0, 64, padding.shape), batch["tokens"])
    _, metrics = run(
        make_train_step(MODEL, LOSS, OPTIMIZER),
        fresh_state(),
        {**batch, "tokens": changed.astype(np.int32)},
    )
    assert float(metrics["loss"]) == pytest.approx(float(one_step[1]["loss"]), abs=1e-6)
    shifted = (batch["labels"][:, 1:] >= 0) & (batch["segment_ids"][:, :-1] == 1)
    assert int(metrics["tokens"]) == shifted.sum()


def test_chunked_loss_equals_whole(one_step: tuple):
    chunked = make_train_step(MODEL, LossConfig(z_loss=0.01, logits_chunk=5), OPTIMIZER)
    state, metrics = run(chunked, fresh_state(), random_batch())
    assert "accuracy" not in metrics
    assert_close(state.params, one_step[0].params, 1e-5)
    assert_close(metrics, {name: one_step[1][name] for name in metrics}, 1e-5)


def test_packed_row_equals_separate_rows():
    rng = np.random.default_rng(2)
    lengths, tokens = (5, 7), rng.integers(0, 64, 12).astype(np.int32)
    segments = np.repeat([1, 2], lengths).astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    packed = {"tokens": tokens, "labels": tokens, "segment_ids": segments, "positions": positions}
    packed = {name: row[None] for name, row in packed.items()}
    apart = {name: np.zeros((2, 7), np.int32) for name in packed}
    apart["labels"][:] = -100
    for row, (start, stop) in enumerate(((0, 5), (5, 12))):
        for name in packed:
            apart[name][row, : stop - start] = packed[name][0, start:stop]
        apart["segment_ids"][row, : stop - start] = 1
    step = make_train_step(MODEL, LOSS, OPTIMIZER, packed=True)
    plain = make_train_step(MODEL, LOSS, OPTIMIZER)
    together, separate = run(step, fresh_state(), packed), run(plain, fresh_state(), apart)
    assert int(together[1]["tokens"]) == 4 + 6
    assert_close(together, separate, 1e-5)


def test_dropout_draws_from_the_key():
    dropped = replace(MODEL, transformer=replace(MODEL.transformer, dropout=0.5))
    step = jax.jit(make_train_step(dropped, LOSS, OPTIMIZER), compiler_options=QUICK)
    batch = jax.tree.map(jnp.asarray, random_batch())
    losses = [float(step(fresh_state(), batch, jax.random.key(k))[1]["loss"]) for k in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_micro_batches_make_the_step_of_the_whole_batch(one_step: tuple):
    """Though they predict different numbers of tokens, all metrics too; rounding alone differs."""
    step = make_train_step(MODEL, LOSS, OPTIMIZER, accumulation=4)
    state, metrics = run(step, fresh_state(), random_batch())
    assert_close(state, one_step[0], 1e-6)
    for name, value in one_step[1].items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_micro_batches_on_a_mesh_equal_one_device(one_step: tuple):
    """Each is split over the devices as the batch was; no row moves to another."""
    layout = make_layout(MeshConfig("fsdp_tensor", (("fsdp", 4), ("tensor", 2))))
    state = fresh_state()
    places = state_shardings(state, param_letters(MODEL.transformer), layout)
    rows = batch_sharding(layout)
    step = make_train_step(MODEL, LOSS, OPTIMIZER, layout=layout, accumulation=2)
    found = run(
        step,
        jax.device_put(state, places),
        jax.device_put(random_batch(), rows),
        in_shardings=(places, rows, None),
        out_shardings=(places, replicated(layout)),
    )
    assert_close(found, one_step, 1e-5)


def test_micro_batches_draw_other_dropout():
    """Two equal rows, one a micro-batch: the key of one is not that of the other."""
    keys = []

    def gradient_of(part: Any, key: Any) -> tuple[Any, Any]:
        return {"w": jax.random.key_data(key).astype(jnp.float32)[1]}, {}

    for count in (2, 1):
        found, _ = accumulated(gradient_of, {"x": jnp.zeros((2, 1))}, jax.random.key(0), count)
        keys.append(float(found["w"]))
    expected = [
        float(jax.random.key_data(jax.random.fold_in(jax.random.key(0), i))[1]) for i in (0, 1)
    ]
    assert expected[0] != expected[1]
    assert keys[0] == pytest.approx(sum(expected)) and keys[1] == 0.0


def test_losses_are_told_apart_by_modality_task_and_area(one_step: tuple):
    batch, rng = random_batch(), np.random.default_rng(3)
    batch["tasks"] = np.repeat(rng.integers(0, 3, (8, 1)), 12, axis=1).astype(np.int32)
    batch["areas"] = np.repeat(rng.integers(0, 5, (8, 1)), 12, axis=1).astype(np.int32)
    state = fresh_state()
    step = make_train_step(MODEL, LOSS, OPTIMIZER, image_codes=(40, 10))
    _, metrics = run(step, state, batch)

    def by_token(params: Any, batch: dict, _: Any) -> tuple[Any, Any]:
        logits, _ = forward(params, MODEL.transformer, batch["tokens"], batch["positions"])
        labels = shift_labels(batch["labels"], batch["segment_ids"])
        return token_losses(logits, labels).cross_entropy, labels

    ce, labels = map(np.asarray, run(by_token, state.params, batch))
    codes = (labels >= 40) & (labels < 50)
    wanted = {"by_modality": [codes, ~codes]}
    wanted["by_task"] = [batch["tasks"] == kind for kind in range(len(TASK_NAMES))]
    wanted["by_area"] = [batch["areas"] == kind for kind in range(len(AREAS_PX))]
    for name, masks in wanted.items():
        sums = [ce[mask & (labels >= 0)].sum() for mask in masks]
        counts = [(mask & (labels >= 0)).sum() for mask in masks]
        np.testing.assert_allclose(metrics[name], [sums, counts], rtol=1e-5, atol=1e-5)
        assert float(metrics[name][0].sum() / metrics["tokens"]) == pytest.approx(
            float(one_step[1]["ce"]), rel=1e-5
        )
    assert not [name for name in one_step[1] if name.startswith("by_")]


def test_sums_by_kind_scatter_nothing_and_hold_little():
    """A scatter adds in no fixed order on GPUs, so two equal runs would log other numbers. Logits here are 2 GiB."""
    batch = {"tasks": jnp.zeros((1, 8192), jnp.int32), "areas": jnp.zeros((1, 8192), jnp.int32)}
    labels, ce = batch["tasks"], jnp.ones((1, 8192))
    found = jax.jit(lambda *args: loss_sums(*args, image_codes=(40, 10)))
    lowered = found.lower(TokenLosses(ce, ce), labels, batch)
    assert "reduce" in lowered.as_text() and "scatter" not in lowered.as_text()
    memory = lowered.compile().memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 4 * 2**20


def test_ema_follows_the_weights():
    step = make_train_step(MODEL, LOSS, OPTIMIZER, ema_decay=0.9)
    start = fresh_state(0.9)
    state, _ = run(step, start, random_batch())
    wanted = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, start.params, state.params)
    assert_close(state.ema, wanted, 1e-6)
    late = average(jnp.zeros(()), jnp.ones(()), 0.9, 1000)
    assert float(late) == pytest.approx(0.1)


def test_right_predictions_are_counted_where_something_is_predicted():
    logits = jnp.asarray([[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    assert int(num_right(logits, jnp.asarray([[1, 1, -100]]))) == 1
    assert int(num_right(logits, jnp.asarray([[-100, -100, -100]]))) == 0
