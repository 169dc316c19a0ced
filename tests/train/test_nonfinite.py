"""A loss that is not finite: named, written down, and skipped within a bound."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lumina_jax.checkpoint import load_model
from lumina_jax.data.records import unpack_record
from lumina_jax.data.shards import open_shards
from lumina_jax.experiment import LossConfig, OptimizerConfig
from lumina_jax.train import loop
from lumina_jax.train.metrics import read_metrics
from lumina_jax.train.nonfinite import NonFiniteLoss, keep_where_finite
from lumina_jax.train.step import apply_gradient, init_state
from tests.train.processes import CLOCK


class Crash(Exception):
    """Stands in for a kill."""


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`poison(3, 6)`: the third and the sixth step of a run say NaN, and spoil the state."""
    make_trainee = loop.make_trainee

    def poison_steps(*steps: int) -> None:
        def make(*arguments: Any) -> Any:
            trainee = make_trainee(*arguments)

            def step(state: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
                bad = jnp.isin(state.step + 1, jnp.array(steps))
                after, metrics = trainee.step(state, batch, key)

                def spoiled(leaf: Any) -> Any:
                    floats = jnp.issubdtype(leaf.dtype, jnp.floating)
                    return jnp.where(bad, jnp.nan, leaf) if floats else leaf

                loss = jnp.where(bad, jnp.nan, metrics["loss"])
                return jax.tree.map(spoiled, after), {**metrics, "loss": loss}

            return trainee._replace(step=step)

        monkeypatch.setattr(loop, "make_trainee", make)

    return poison_steps


def rows(workdir: Path) -> list[dict[str, float]]:
    """The log without what the clock says."""
    return [{name: row[name] for name in row if name not in CLOCK} for row in read_metrics(workdir)]


def test_a_skipped_step_moves_counters_alone():
    optimizer = optax.adamw(optax.linear_schedule(1.0, 0.0, 9))
    before = init_state({"w": jnp.arange(3.0)}, optimizer, ema_decay=0.9)
    after, norm = apply_gradient(before, {"w": jnp.ones(3)}, optimizer, 0.9)
    good = keep_where_finite(before, after, {"loss": jnp.float32(1), "grad_norm": norm})
    bad = keep_where_finite(before, after, {"loss": jnp.float32(1), "grad_norm": jnp.inf})
    for one, other in zip(jax.tree.leaves(good), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one, other)
    assert bad.step == 1
    names = jax.tree_util.tree_leaves_with_path(bad)
    old = dict(jax.tree_util.tree_leaves_with_path(before))
    changed = [jax.tree_util.keystr(path) for path, leaf in names if not np.all(leaf == old[path])]
    # the count by which the learning rate goes, and not the one of Adam's bias
    assert changed == [".step", ".opt_state[2].count"]


def test_the_stop_names_the_records_and_writes_the_batch(tiny_run, tmp_path: Path):
    stage = replace(tiny_run().train.stages[0], learning_rate=1e38, warmup_steps=0)
    experiment = tiny_run(
        stages=(stage,),
        optimizer=OptimizerConfig(clip_norm=1e30),
        loss=LossConfig(context_dropout=0.0),
    )
    with pytest.raises(NonFiniteLoss) as stop:
        loop.train(experiment, tmp_path)
    told = json.loads((tmp_path / "nonfinite-2" / "step.json").read_text())
    assert (told["step"], told["metrics"]["loss"], len(told["records"])) == (2, "nan", 8)
    line = str(stop.value)
    assert "\n" not in line and line.startswith("step 2: the loss is nan")
    assert ", ".join(told["records"]) in line and str(tmp_path / "nonfinite-2") in line
    with np.load(tmp_path / "nonfinite-2" / "batch-0.npz") as batch:
        tokens, real = batch["tokens"], batch["segment_ids"] > 0
    records = open_shards(experiment.data.sources[0].path)
    for name, row, kept in zip(told["records"], tokens, real, strict=True):
        source, _, index = name.partition("#")
        assert source == "tiny"
        np.testing.assert_array_equal(unpack_record(records[int(index)]).tokens, row[kept])


@pytest.mark.slow
def test_skipped_steps_are_counted_over_a_crash(tiny_run, poison, capsys, tmp_path: Path):
    poison(2, 6)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    experiment = tiny_run(max_nonfinite=2, save_every=4)
    loop.train(experiment, whole)
    told = capsys.readouterr().err
    assert "step 2: the loss is nan" in told and "skipped, 1 of at most 2" in told
    found = rows(whole)
    assert [row for row in found if "loss" not in row] == [
        {"step": 2, "nonfinite": 1},
        {"step": 6, "nonfinite": 2},
    ]
    assert np.isfinite([row["loss"] for row in found if "loss" in row]).all()
    params = load_model(whole / "model").params
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params["transformer"]))

    def crash(state: Any, step: int, workdir: Path) -> dict[str, float]:
        raise Crash

    with pytest.raises(Crash):
        loop.train(tiny_run(max_nonfinite=2, save_every=4, eval_every=5), resumed, on_eval=crash)
    with pytest.raises(NonFiniteLoss, match="step 6: .* 1 such steps were skipped"):
        loop.train(tiny_run(max_nonfinite=1, save_every=4), resumed)
    loop.train(experiment, resumed)
    assert rows(resumed) == found
