"""A run goes on with other devices and other hosts: the same records, and as near as sums in another order allow."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lumina_jax.experiment import Experiment
from tests.train.processes import (
    finish,
    kill_at,
    log_of,
    losses,
    rows_of,
    start,
    start_cluster,
)

NUM_STEPS = 16


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the runs that every test here starts from are, once they are made."""
    return {"folder": tmp_path_factory.mktemp("elastic")}


@pytest.fixture
def experiment(tiny_run: Callable[..., Experiment]) -> Experiment:
    stages = tuple(replace(stage, steps=NUM_STEPS // 2) for stage in tiny_run().train.stages)
    return tiny_run(stages=stages, save_every=2)


@pytest.fixture
def whole(experiment: Experiment, kept: dict[str, Path]) -> Path:
    """A run on four devices that nothing interrupted; beside it, as "killed", one that was."""
    if "whole" not in kept:
        whole, killed = kept["folder"] / "whole", kept["folder"] / "killed"
        finish(start(experiment, whole), whole)
        kill_at(5, start(experiment, killed), killed)
        kept["whole"] = whole
    return kept["whole"]


def assert_goes_on(experiment: Experiment, whole: Path, count: int, devices: int) -> None:
    """The killed run, resumed by `count` processes with `devices` in all, equals the one on four."""
    workdir = whole.parent / f"on-{devices}-of-{count}"
    shutil.copytree(whole.parent / "killed", workdir)
    for process in start_cluster(experiment, workdir, count, devices):
        finish(process, workdir)
    (line,) = (x for x in log_of(workdir).read_text().splitlines() if x.startswith("resuming"))
    first = int(line.split()[-1])  # steps done before
    assert 2 <= first <= NUM_STEPS - 5
    assert rows_of(workdir, count) == rows_of(whole)[first:]
    expected, found = losses(whole), losses(workdir)
    assert [step for step, _ in found] == list(range(1, NUM_STEPS + 1))
    assert found[:first] == expected[:first]
    near = [loss for _, loss in expected[first : first + 5]]
    assert [loss for _, loss in found[first : first + 5]] == pytest.approx(near, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_half_and_double_the_devices_go_on_with_the_same_records(experiment, whole, devices: int):
    assert_goes_on(experiment, whole, 1, devices)


@pytest.mark.multihost
@pytest.mark.parametrize("devices", [2, 8])
def test_two_hosts_go_on_with_what_one_began(experiment, whole, devices: int):
    assert_goes_on(experiment, whole, 2, devices)
