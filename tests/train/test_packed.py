"""Packed training equals unpacked training: record by record the same losses and gradients."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lumina_jax.config import ModelConfig, TransformerConfig
from lumina_jax.data.pipeline import rows_of_records
from lumina_jax.data.records import Record, unpack_record
from lumina_jax.data.shards import finish, open_shards
from lumina_jax.data_config import DataConfig, RecordSource
from lumina_jax.experiment import Experiment, LossConfig, Stage
from lumina_jax.model.params import abstract_params
from lumina_jax.train.loop import train
from lumina_jax.train.metrics import read_metrics
from lumina_jax.train.step import init_state, make_train_step

PRE = TransformerConfig(1, 16, 4, 2, 8, 32, 64)
PLACEMENTS = {
    "pre": PRE,
    "swin": replace(PRE, norm_placement="swin", qk_norm_shards=2),
}
QUICK = {"xla_backend_optimization_level": 0}
KEEPS_GRADIENT = optax.trace(decay=0.0)  # its state is the gradient
LENGTHS = (9, 5, 12, 3, 7)
BINS = ((0, 3), (2,), (1, 4))  # of 14 tokens, each with some padding


def records() -> list[Record]:
    """Random tokens; the first part of each is given, the last predicted."""
    rng = np.random.default_rng(0)
    return [
        Record(rng.integers(0, 64, n).astype(np.uint16), ((n // 3, n),), "t2i", (64, 64), "a", i)
        for i, n in enumerate(LENGTHS)
    ]


def only(record: int) -> list[Record]:
    """All records; labels in one alone."""
    return [r if r.index == record else r._replace(spans=()) for r in records()]


def run(config: TransformerConfig, packed: bool) -> Any:
    """Records -> (loss and its parts, gradient) of one jitted step: in bins, or one a row."""
    step = make_train_step(
        ModelConfig(config), LossConfig(z_loss=0.01), KEEPS_GRADIENT, packed=packed
    )
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype),
        abstract_params(config),
    )
    state = init_state(params, KEEPS_GRADIENT)
    jitted = jax.jit(step, compiler_options=QUICK)

    def losses(given: list[Record]) -> tuple[dict[str, Any], Any]:
        rows = [[given[place] for place in row] for row in BINS] if packed else [[r] for r in given]
        batch = rows_of_records(rows, 14 if packed else 12, pad_id=1)
        after, metrics = jitted(state, batch, jax.random.key(0))
        assert isinstance(after.opt_state, optax.TraceState)
        return metrics, after.opt_state.trace

    return losses


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_packed_step_equals_unpacked(placement):
    packed, unpacked = (run(PLACEMENTS[placement], way) for way in (True, False))
    for given in (records(), *(only(record) for record in range(len(LENGTHS)))):
        (found, gradient), (wanted, wanted_gradient) = packed(given), unpacked(given)
        assert int(found["tokens"]) == int(wanted["tokens"]) > 0
        for name in ("loss", "ce", "z"):
            assert float(found[name]) == pytest.approx(float(wanted[name]), rel=1e-5), name
        for one, other in zip(
            jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True
        ):
            np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


@pytest.fixture
def packed_run(
    tiny_run: Callable[..., Experiment], tiny_records: Path, tmp_path: Path
) -> Callable[[int], Experiment]:
    """`packed_run(workers)`: bins of two or three records in the first stage, two buckets in the second."""
    folder = tmp_path / "lengths" / "tiny"
    shutil.copytree(tiny_records, folder)
    lengths = [len(unpack_record(packed).tokens) for packed in open_shards(folder)]
    finish(folder, len(lengths), {}, lengths)
    mixture = (("tiny", 1.0),)
    buckets = (sorted(lengths)[8], max(lengths))
    stages = (
        Stage(4, 8, 1e-2, mixture, max_tokens=3 * max(lengths), layout="packed"),
        Stage(4, 8, 1e-2, mixture, max_tokens=max(lengths), layout="buckets", buckets=buckets),
    )

    def build(workers: int) -> Experiment:
        run = tiny_run(stages=stages)
        data = DataConfig((RecordSource("tiny", str(folder)),), num_workers=workers)
        return replace(run, data=data)

    return build


@pytest.mark.slow
def test_run_of_bins_and_buckets_resumes_with_and_without_workers(packed_run, tmp_path):
    def losses(workdir: Path) -> list[float]:
        return [row["loss"] for row in read_metrics(workdir) if "loss" in row]

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(packed_run(0), whole)
    assert len(losses(whole)) == 8 and np.isfinite(losses(whole)).all()
    train(packed_run(2), resumed)
    shutil.rmtree(resumed / "checkpoints" / "8")
    (last,) = (int(path.name) for path in (resumed / "checkpoints").glob("[0-9]"))
    assert last in range(2, 8)  # the run goes on inside a stage
    train(packed_run(0), resumed)
    assert losses(resumed) == losses(whole)
