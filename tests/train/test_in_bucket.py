"""Runs whose workdir, weights, data and records are in a bucket."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lumina_jax.checkpoint import digest, load_model
from lumina_jax.config_json import config_to_dict
from lumina_jax.data.shards import INDEX, open_shards
from lumina_jax.data_config import DataConfig, RecordSource
from lumina_jax.paths import BucketError, as_path, copy_folder
from lumina_jax.train.checkpoints import TrainCheckpoints
from lumina_jax.train.loop import train
from lumina_jax.train.metrics import MetricsLog, read_metrics

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
from lumina_jax.experiment import Experiment
from lumina_jax.config_json import config_from_dict
from lumina_jax.train.loop import train
workdir, config = sys.argv[1:]
train(config_from_dict(Experiment, json.loads(config)), workdir)
"""


def losses(workdir) -> list[tuple[int, float]]:
    return [(int(row["step"]), row["loss"]) for row in read_metrics(workdir) if "loss" in row]


def steps_in(fake_gcs) -> set[str]:
    """The steps of the committed checkpoints in the bucket."""
    done = [name.split("/") for name in fake_gcs.names() if name.endswith("commit_success.txt")]
    return {parts[2] for parts in done if parts[1] == "checkpoints"}


def in_bucket(experiment, fake_gcs):
    """The same run with its records and assets in the bucket."""
    (source,), bucket = experiment.data.sources, fake_gcs.url
    copy_folder(Path(source.path), as_path(f"{bucket}/records"))
    copy_folder(Path(experiment.assets), as_path(f"{bucket}/assets"))
    data = DataConfig((RecordSource(source.name, f"{bucket}/records"),))
    return replace(experiment, data=data, assets=f"{bucket}/assets")


def start(experiment, workdir: str, log: Path) -> subprocess.Popen:
    """A training process of one device."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    command = [sys.executable, "-c", SCRIPT, workdir, json.dumps(config_to_dict(experiment))]
    with log.open("a") as stream:
        return subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)


@pytest.mark.slow
def test_killed_in_a_bucket_equals_uninterrupted(tiny_run, fake_gcs, tmp_path: Path):
    log = tmp_path / "log"
    assert start(tiny_run(), str(tmp_path / "plain"), log).wait(300) == 0, log.read_text()
    experiment = in_bucket(tiny_run(save_every=2), fake_gcs)
    workdir = f"{fake_gcs.url}/run"
    process = start(experiment, workdir, log)
    while process.poll() is None and "4" not in steps_in(fake_gcs):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, log.read_text()
    assert start(experiment, workdir, log).wait(300) == 0, log.read_text()
    assert "resuming" in log.read_text()
    assert losses(workdir) == losses(tmp_path / "plain")
    assert digest(f"{workdir}/model", "transformer") == digest(
        tmp_path / "plain" / "model", "transformer"
    )
    kinds = {name.split("/")[1] for name in fake_gcs.names() if name.startswith("run/")}
    assert {"config.json", "metrics.jsonl", "events", "loss.png", "model"} <= kinds


def test_a_damaged_checkpoint_is_set_aside_and_what_a_kill_left_is_removed(fake_gcs, capsys):
    workdir = f"{fake_gcs.url}/run"
    checkpoints = TrainCheckpoints(workdir)
    for step in (1, 2):
        checkpoints.save(step, {"w": jnp.arange(4.0) + step}, {"step": step})
    checkpoints.close()
    for name in fake_gcs.names():
        if name.startswith("run/checkpoints/2/") and "/d/" in name:
            content = bytearray(fake_gcs.get(name))
            content[len(content) // 2] ^= 1
            fake_gcs.put(name, bytes(content))
    fake_gcs.put("run/checkpoints/3/state/manifest.ocdbt", b"what a killed save left")
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"w": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=place)}
    state, meta = TrainCheckpoints(workdir).restore(wanted)
    assert state["w"].tolist() == [1, 2, 3, 4] and meta == {"step": 1}
    assert "falling back to the one before" in capsys.readouterr().err
    assert {name.split("/")[2] for name in fake_gcs.names()} == {"1", "damaged-2"}


def test_a_bucket_that_stops_answering_damages_nothing(fake_gcs):
    checkpoints = TrainCheckpoints(f"{fake_gcs.url}/run")
    checkpoints.save(1, {"w": jnp.arange(4.0)}, {"step": 1})
    checkpoints.wait()
    steps, names = checkpoints.steps(), fake_gcs.names()
    checkpoints.steps = lambda: steps
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    fake_gcs.refuse(403, "your account was locked")
    with pytest.raises(BucketError, match="your account was locked"):
        checkpoints.restore({"w": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=place)})
    assert fake_gcs.names() == names


@pytest.mark.slow
def test_a_run_goes_on_in_its_bucket_past_a_damaged_checkpoint(tiny_run, fake_gcs, capsys):
    experiment, workdir = in_bucket(tiny_run(save_every=4), fake_gcs), f"{fake_gcs.url}/run"
    model = train(experiment, workdir).model
    before, weights = losses(workdir), digest(model)
    for name in fake_gcs.names():
        if name.startswith("run/checkpoints/8/") and "/d/" in name:
            content = bytearray(fake_gcs.get(name))
            content[len(content) // 2] ^= 1
            fake_gcs.put(name, bytes(content))
    train(experiment, workdir, init=model)
    told = capsys.readouterr().err
    assert "falling back to the one before" in told and "at step 4" in told
    assert losses(workdir) == before and digest(model) == weights
    folders = {name.split("/")[2] for name in fake_gcs.names() if "/checkpoints/" in name}
    assert folders == {"4", "8", "damaged-8"}
    load_model(model)


def test_drawn_data_are_shared_through_the_bucket(tiny_vqgan_run, fake_gcs, monkeypatch, tmp_path):
    from lumina_jax.data.images import ensure_images

    (source,), grid = tiny_vqgan_run.data.sources, tiny_vqgan_run.model.grid
    data_dir = f"{fake_gcs.url}/data"
    here = ensure_images(source, grid, data_dir, 1)
    marks = [name for name in fake_gcs.names() if name.endswith(INDEX)]
    assert len(marks) == 1 and len(fake_gcs.names()) == 2
    monkeypatch.setenv("LUMINA_JAX_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setattr("lumina_jax.data.images._write_images", None)  # nothing is drawn again
    there = ensure_images(source, grid, data_dir, 1)
    assert there != here
    drawn, copied = open_shards(here), open_shards(there)
    assert [copied[i] for i in range(len(copied))] == [drawn[i] for i in range(len(drawn))]


def test_metrics_in_a_bucket_are_read_back_up_to_the_step(fake_gcs):
    workdir = f"{fake_gcs.url}/run"
    log = MetricsLog(workdir)
    for step in range(1, 6):
        log.write(step, {"loss": 1 / step})
    log.flush()
    log.write(6, {"loss": 0.0})  # never flushed: the run is killed here
    assert [row["step"] for row in read_metrics(workdir)] == [1, 2, 3, 4, 5]
    resumed = MetricsLog(workdir, 4)
    resumed.write(5, {"loss": 1 / 5})
    resumed.close()
    assert read_metrics(workdir)[4] == {"step": 5, "loss": 1 / 5}
    assert len([name for name in fake_gcs.names() if name.startswith("run/events/")]) == 2
