"""The training command line: overrides by field, hints for misspelt ones, errors in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from lumina_jax.cli import describe, load_run_file, parse_run, run_main

ROOT = Path(__file__).resolve().parent.parent
RUN_FILE = """
from lumina_jax.data_config import *
from lumina_jax.experiment import *
from lumina_jax.model.presets import PRESETS

def get_config():
    stages = (Stage(10, 4, 0.1, (("a", 1.0),)), Stage(20, 4, 0.1, (("b", 1.0),)))
    sources = (ScenesSource("a", 64, 100), RecordSource("b", "folder"))
    return Experiment("transformer", PRESETS["scenes"], DataConfig(sources), TrainConfig(stages))
"""


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    path = tmp_path / "run.py"
    path.write_text(RUN_FILE)
    return str(path)


def test_without_overrides_the_run_file_stands(run_file: str):
    options, experiment = parse_run([run_file, "--workdir", "out"])
    assert experiment == load_run_file(run_file)
    assert (options.workdir, options.init, options.cpu_devices) == (Path("out"), None, 1)


def test_nested_fields_are_overridden_by_index(run_file: str):
    arguments = ["--train.stages.1.steps", "7", "--data.sources.0.num-records", "5"]
    arguments += ["--data.sources.1.path", "other", "--train.optimizer.name", "muon"]
    arguments += ["--train.stages.0.mixture", "a", "0.5", "b", "0.5", "--init", "model"]
    options, experiment = parse_run([run_file, "--workdir", "out", *arguments])
    assert [stage.steps for stage in experiment.train.stages] == [10, 7]
    assert experiment.train.stages[0].mixture == (("a", 0.5), ("b", 0.5))
    assert experiment.data.sources[0].num_records == 5
    assert experiment.data.sources[1].path == "other"
    assert experiment.train.optimizer.name == "muon"
    assert options.init == Path("model")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("--train.stages.1.stepz 7", r"--train.stages.1.stepz.*perhaps .*--train.stages.1.steps"),
        ("--train.seed x", r"--train.seed: .*'x'"),
        ("--train.stages.1.steps -1", "stage of -1 steps: want at least 1"),
        ("--train.save-every 0", "save_every 0: want at least 1"),
    ],
)
def test_a_wrong_argument_is_answered_in_one_line(
    run_file: str, arguments: str, wanted: str, capsys
):
    with pytest.raises(ValueError, match=wanted) as refusal:
        parse_run([run_file, "--workdir", "out", *arguments.split()])
    assert len(str(refusal.value).splitlines()) == 1
    assert "".join(capsys.readouterr()) == ""


def test_workdir_is_named_after_the_run_file_unless_given(run_file: str):
    options, _ = parse_run([run_file])
    assert options.workdir == Path("runs") / Path(run_file).stem


def test_unknown_run_file_names_what_there_is(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(
        FileNotFoundError, match="no run file configs/scnes.py; there are .*scenes.py"
    ):
        parse_run(["configs/scnes.py", "--workdir", "out"])


def test_missing_run_file_shows_the_usage():
    with pytest.raises(ValueError, match="usage: python train.py RUN_FILE"):
        parse_run(["--workdir", "out"])


def test_run_file_without_get_config_is_one_clear_error(tmp_path: Path):
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(ValueError, match="defines get_config"):
        load_run_file(path)


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError("bad value"), 2), (FileNotFoundError("no file"), 2), (KeyboardInterrupt(), 130)],
)
def test_run_main_turns_errors_into_exit_codes(error: BaseException, code: int, capsys):
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run_main(fail)
    assert stop.value.code == code
    found = capsys.readouterr().err
    assert found == (f"error: {error}\n" if code == 2 else "")


def test_run_main_lets_bugs_show_themselves():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 / 0)


def test_description_lists_every_setting(run_file: str):
    lines = describe(load_run_file(run_file)).splitlines()
    assert "trainee: transformer" in lines
    assert "    z_loss: 1e-05" in lines
    assert any(line.startswith("    1: Stage(steps=20") for line in lines)


def test_help_imports_neither_jax_nor_the_data_libraries(run_file: str):
    code = (
        "import sys; from lumina_jax.cli import parse_run\n"
        "try: parse_run(sys.argv[1:])\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "heavy = {'jax', 'grain', 'orbax', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for arguments in (["--help"], [run_file, "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "--workdir" in done.stdout
