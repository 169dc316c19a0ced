"""Metrics on disk: complete lines only, none from a future that was undone."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from lumina_jax.train.metrics import (
    KindMeans,
    MetricsLog,
    Progress,
    draw_curve,
    numbers,
    read_metrics,
)
from lumina_jax.unirep.kinds import AREAS_PX, TASK_NAMES


def write_steps(workdir: Path, start: int, stop: int) -> None:
    log = MetricsLog(workdir, start)
    for step in range(start + 1, stop + 1):
        log.write(step, {"loss": 1 / step})
    log.close()


def test_lines_keep_full_precision(tmp_path: Path):
    write_steps(tmp_path, 0, 3)
    assert read_metrics(tmp_path)[2] == {"step": 3, "loss": 1 / 3}


def test_resuming_drops_lines_past_the_step_and_a_cut_one(tmp_path: Path):
    write_steps(tmp_path, 0, 6)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 7, "lo')
    write_steps(tmp_path, 4, 5)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]


def test_inactive_log_writes_nothing(tmp_path: Path):
    log = MetricsLog(tmp_path, 0, active=False)
    log.write(1, {"loss": 1.0})
    log.close()
    assert not list(tmp_path.iterdir())


def test_curve_is_drawn_from_two_points_on(tmp_path: Path):
    write_steps(tmp_path, 0, 1)
    assert draw_curve(tmp_path) is None
    write_steps(tmp_path, 1, 5)
    path = draw_curve(tmp_path, boundaries=(3,))
    assert path is not None and path.read_bytes().startswith(b"\x89PNG")


def test_progress_reports_speed_on_logged_steps_only():
    progress = Progress(0, 10, log_every=2, active=False)
    values = {"loss": 1.0, "lr": 0.1, "tokens": 50.0}
    assert progress.update(1, values) == {}
    speed = progress.update(2, values)
    assert set(speed) == {"steps_per_s", "tokens_per_s", "data_wait"}
    assert abs(speed["tokens_per_s"] / speed["steps_per_s"] - 50) < 1e-6
    progress.close()


def test_progress_reports_shares_of_the_time_since_the_last_line():
    progress = Progress(0, 10, log_every=2, active=False, peak_flops=1000.0)
    values = {"loss": 1.0, "lr": 0.1}
    progress.waited(5.0)
    progress.update(1, values, flops=7.0)
    progress.update(2, values, flops=7.0)  # the wait and the FLOPs of this line count no more
    time.sleep(0.05)
    progress.waited(0.01)
    progress.waited(0.01)
    progress.update(3, values, flops=5.0)
    speed = progress.update(4, values, flops=10.0)
    seconds = 2 / speed["steps_per_s"]
    assert seconds >= 0.05
    assert speed["data_wait"] == pytest.approx(0.02 / seconds)
    assert speed["mfu"] == pytest.approx(15.0 / 1000.0 / seconds)
    progress.close()


def test_means_by_kind_are_over_all_tokens_since_the_last_line():
    """Not over the steps' means; kinds without tokens have no line, and a line forgets."""
    means, places = KindMeans(), np.zeros((2, len(TASK_NAMES)))
    places[:, 1], places[:, 3] = (6.0, 2.0), (5.0, 1.0)
    more = np.zeros_like(places)
    more[:, 1] = (2.0, 6.0)
    areas = np.zeros((2, len(AREAS_PX)), np.float32)
    areas[:, AREAS_PX.index(512)] = (8.0, 2.0)
    metrics = {"loss": np.float32(2.5), "by_task": places, "by_area": areas}
    assert numbers(metrics) == {"loss": 2.5}
    means.add(metrics)
    means = KindMeans(json.loads(json.dumps(means.sums)))  # a run resumed in between
    means.add({"loss": 1.0, "by_task": more})
    names = [f"ce/task/{TASK_NAMES[place]}" for place in (1, 3)]
    assert means.take() == {names[0]: 1.0, names[1]: 5.0, "ce/area/512": 4.0}
    assert means.take() == {}
