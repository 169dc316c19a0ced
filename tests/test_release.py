"""A released checkpoint: same values in bfloat16, same tokenizer, readable."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.checkpoint import digest, load_model, read_config, save_model
from lumina_jax.config import SampleConfig, TaskSampling
from lumina_jax.config_json import config_from_dict
from lumina_jax.model.presets import PRESETS
from lumina_jax.release import main, release


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    return save_model(tmp_path / "trained", {"vqgan": {"w": weights}}, PRESETS["scenes"], None)


def test_release_keeps_the_weights_rounded_to_bfloat16(trained: Path, tmp_path: Path):
    before = load_model(trained).params["vqgan"]["w"]
    after = load_model(release(trained, tmp_path / "shipped")).params["vqgan"]["w"]
    assert after.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(before.astype(jnp.bfloat16)), np.asarray(after))


def test_release_writes_the_sampling_settings_and_keeps_them(trained: Path, tmp_path: Path):
    first = release(trained, tmp_path / "first", sample=SampleConfig(guidance=2.5, image_top_k=9))
    again = release(first, tmp_path / "again")
    for folder in (first, again):
        settings = config_from_dict(SampleConfig, read_config(folder)[1]["sample"])
        assert (settings.guidance, settings.image_top_k, settings.temperature) == (2.5, 9, 1.0)
    assert "sample" not in read_config(release(trained, tmp_path / "plain"))[1]


def test_release_refuses_other_dtypes_and_writes_nothing(trained: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="int8.*want bfloat16 or float32"):
        release(trained, tmp_path / "shipped", dtype="int8")
    assert not (tmp_path / "shipped").exists()


def settings_of(folder: Path) -> SampleConfig:
    return config_from_dict(SampleConfig, read_config(folder)[1]["sample"])


def choice(path: Path, source: Path, tasks: str) -> Path:
    path.write_text(f'{{"checkpoint": "{digest(source)}", "tasks": {tasks}}}')
    return path


def test_settings_of_tasks_are_released_above_the_own(trained: Path, tmp_path: Path, monkeypatch):
    first = release(trained, tmp_path / "first", sample=SampleConfig(guidance=2.5))
    best = '{"depth": {"best": {"image_top_k": 1}}, "pose": {"best": {}}, "edit": {"best": {"guidance": 2.0}}}'
    report = choice(tmp_path / "settings.json", first, best)
    command(monkeypatch, first, tmp_path / "second", "--task-settings", report)
    rows = TaskSampling("depth", image_top_k=1), TaskSampling("edit", guidance=2.0)
    assert settings_of(tmp_path / "second") == SampleConfig(guidance=2.5, by_task=rows)
    command(monkeypatch, tmp_path / "second", tmp_path / "third", "--guidance", "3")
    assert settings_of(tmp_path / "third") == SampleConfig(guidance=3.0, by_task=rows)


@pytest.mark.parametrize(
    "tasks, words",
    [
        (None, "no such file"),
        ('{"depth": {"scores": {}}}', "settings.json: holds no choice of settings"),
        ("3", "settings.json: holds no report of tasks"),
        ('{"depths": {"best": {"guidance": 2.0}}}', "settings.json: unknown task"),
    ],
)
def test_another_file_is_no_choice_of_settings(trained, tmp_path, monkeypatch, tasks, words):
    report = tmp_path / "settings.json"
    if tasks is not None:
        choice(report, trained, tasks)
    with pytest.raises(ValueError, match=words):
        command(monkeypatch, trained, tmp_path / "shipped", "--task-settings", report)
    assert not (tmp_path / "shipped").exists()


def test_settings_chosen_for_another_checkpoint_are_refused(trained, tmp_path, monkeypatch):
    report = choice(tmp_path / "settings.json", trained, '{"depth": {"best": {}}}')
    report.write_text(report.read_text().replace(digest(trained), "0123456789ab"))
    with pytest.raises(ValueError, match=r"chosen for the checkpoint 0123456789ab.*choose anew"):
        command(monkeypatch, trained, tmp_path / "shipped", "--task-settings", report)


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["release", *map(str, words)])
    main()
