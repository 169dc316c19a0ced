"""The loss on held-out records: right, cheap, and without any effect on training."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.checkpoint import load_model
from lumina_jax.data.pipeline import token_batches
from lumina_jax.data.shards import finish, open_shards
from lumina_jax.data_config import DataConfig, RecordSource, ScenesSource
from lumina_jax.experiment import Experiment, MeshConfig
from lumina_jax.model.chameleon import forward
from lumina_jax.sharding import make_layout
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.held_out import (
    HeldOut,
    check_apart,
    held_out_experiment,
    weighted_means,
)
from lumina_jax.train.loop import train
from lumina_jax.train.metrics import read_metrics
from lumina_jax.train.trainees import make_trainee
from tests.train.conftest import NUM_RECORDS, write_records
from tests.train.processes import CLOCK


@pytest.fixture
def evaluated_run(tiny_run, tmp_path_factory, small_tokenizer) -> Callable[..., Experiment]:
    """As `tiny_run`, with the source "rest" held out."""

    def build(**fields: Any) -> Experiment:
        experiment = tiny_run(**fields)
        (source,) = experiment.data.sources
        rest = write_records(tmp_path_factory.mktemp("rest"), small_tokenizer, seed=1)
        sources = (source, RecordSource("rest", str(rest)))
        train = replace(experiment.train, eval_source="rest", eval_batches=2)
        return replace(experiment, data=DataConfig(sources), train=train)

    return build


def steps(workdir: Path) -> list[dict[str, float]]:
    return [
        {name: row[name] for name in row if name not in CLOCK}
        for row in read_metrics(workdir)
        if "loss" in row
    ]


def mean_cross_entropy(experiment: Experiment, model: Path) -> float:
    """Of the released model on two batches of held-out records, token by token."""
    loaded, held_out = load_model(model), held_out_experiment(experiment)
    rest = experiment.data.sources[1]
    assert isinstance(rest, RecordSource)
    records = {"rest": open_shards(rest.path)}
    vocab, curriculum = loaded.tokenizer.vocab, Curriculum(held_out.train.stages)
    losses = []
    for batch in token_batches(records, curriculum, experiment.data.seed, vocab, 0.0):
        config = experiment.model.transformer
        tokens, positions = jnp.asarray(batch["tokens"]), jnp.asarray(batch["positions"])
        logits = forward(loaded.params["transformer"], config, tokens, positions)[0]
        logs = np.asarray(jax.nn.log_softmax(logits))
        for row, labels in enumerate(batch["labels"]):
            for place in np.flatnonzero(labels >= 0):
                losses.append(-logs[row, place - 1, labels[place]])
    return float(np.mean(losses))


@pytest.mark.slow
def test_evaluation_is_the_released_model_s_loss_and_changes_no_step(
    tiny_run, evaluated_run, tmp_path: Path
):
    plain, evaluated = tmp_path / "plain", tmp_path / "evaluated"
    train(tiny_run(), plain)
    experiment = evaluated_run(eval_every=4)
    train(experiment, evaluated)
    assert steps(evaluated) == steps(plain)
    found = {row["step"]: row for row in read_metrics(evaluated) if "eval/ce" in row}
    assert list(found) == [4, 8]
    assert found[8]["eval/ce"] < found[4]["eval/ce"]
    assert {"eval/loss", "eval/accuracy"} < set(found[8]) and "eval/grad_norm" not in found[8]
    expected = mean_cross_entropy(experiment, evaluated / "model")
    assert found[8]["eval/ce"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_evaluation_takes_no_gradient_and_no_more_memory_than_a_step(evaluated_run, tmp_path: Path):
    experiment = evaluated_run(accumulation=4)
    stages = tuple(replace(stage, batch_size=32) for stage in experiment.train.stages)
    experiment = replace(experiment, train=replace(experiment.train, stages=stages))
    layout = make_layout(MeshConfig(axes=(("data", 1),)), jax.devices()[:1])
    trainee = make_trainee(experiment, Curriculum(stages), layout)
    state = jax.eval_shape(trainee.init, jax.random.key(0))
    batch = jax.tree.map(np.asarray, next(trainee.batches(tmp_path)(0)))
    held_out = held_out_of(experiment, layout, trainee.shardings(state), tmp_path)
    part = jax.tree.map(np.asarray, next(held_out.batches()))
    step = jax.jit(trainee.step).lower(state, batch, jax.random.key(0)).compile()
    evaluation = jax.jit(held_out.evaluate).lower(state, part).compile()
    # of a micro-batch: the compiler counts a loop's body once
    flops = [dict(program.cost_analysis() or {})["flops"] for program in (step, evaluation)]
    assert flops[1] < 0.45 * flops[0]
    memory = [program.memory_analysis() for program in (step, evaluation)]
    assert memory[0] is not None and memory[1] is not None
    assert memory[1].temp_size_in_bytes < 0.7 * memory[0].temp_size_in_bytes
    assert sum(len(rows["tokens"]) for rows in held_out.batches()) == 2 * 32


def held_out_of(experiment: Experiment, layout: Any, shardings: Any, data_dir: Path) -> HeldOut:
    evaluated = held_out_experiment(experiment)
    trainee = make_trainee(evaluated, Curriculum(evaluated.train.stages), layout)
    return HeldOut(trainee, layout, shardings, data_dir)


def test_held_out_records_that_do_not_fit_are_refused_at_the_start(evaluated_run, tmp_path: Path):
    experiment = evaluated_run()
    rest = experiment.data.sources[1]
    finish(Path(rest.path), NUM_RECORDS, {}, [*[30] * (NUM_RECORDS - 1), 49])
    with pytest.raises(ValueError, match="49 tokens"):
        held_out_of(experiment, make_layout(MeshConfig()), None, tmp_path)


def test_a_copy_of_trained_records_is_refused(evaluated_run, tmp_path: Path):
    experiment, copies = evaluated_run(), []
    for source in experiment.data.sources:
        copies.append(RecordSource(source.name, str(tmp_path / source.name)))
        shutil.copytree(source.path, copies[-1].path)
        finish(Path(copies[-1].path), NUM_RECORDS, {}, [30] * NUM_RECORDS)
    copied = replace(experiment, data=DataConfig(tuple(copies)))
    with pytest.raises(ValueError, match="'rest': its folder is a copy of 'tiny'"):
        check_apart(copied)
    finish(Path(copies[1].path), NUM_RECORDS, {}, [31] * NUM_RECORDS)
    check_apart(copied)


def test_batches_that_predict_nothing_do_not_count():
    rows = [{"ce": 3.0, "tokens": 2.0}, {"ce": 0.0, "tokens": 0.0}, {"ce": 6.0, "tokens": 1.0}]
    assert weighted_means(rows) == {"ce": 4.0}
    assert weighted_means(rows[1:2]) == {}
    assert weighted_means([{"psnr": 20.0}, {"psnr": 22.0}]) == {"psnr": 21.0}


@pytest.mark.slow
def test_vqgan_s_held_out_pictures_are_scored(tiny_vqgan_run, tmp_path: Path):
    (source,) = tiny_vqgan_run.data.sources
    rest = ScenesSource("rest", 64, 8, seed=1, sizes=((64, 64),))
    settings = replace(tiny_vqgan_run.train, eval_source="rest", eval_batches=1, eval_every=4)
    data = DataConfig((source, rest))
    train(replace(tiny_vqgan_run, data=data, train=settings), tmp_path)
    (found,) = (row for row in read_metrics(tmp_path) if "eval/psnr" in row)
    assert found["step"] == 4 and {"eval/l1", "eval/loss"} < set(found)


def test_records_that_a_stage_trains_on_are_refused(tiny_run, evaluated_run):
    experiment = evaluated_run()
    with pytest.raises(ValueError, match=r"eval_source 'rust': want one of \['rest', 'tiny'\]"):
        replace(experiment, train=replace(experiment.train, eval_source="rust"))
    with pytest.raises(ValueError, match="a stage trains on its records"):
        tiny_run(eval_source="tiny")
    (source, _) = experiment.data.sources
    folder = Path(source.path)
    for spelled in (f"{folder}", f"{folder}/", f"{folder.parent}/./{folder.name}"):
        same = RecordSource("rest", spelled)
        with pytest.raises(ValueError, match=r"a stage trains on its records \(as 'tiny'\)"):
            replace(experiment, data=DataConfig((source, same)))
