"""The plan command: what it refuses, what it says without a compiler, and when its exit code is 1."""

import json
from pathlib import Path

import jax
import pytest

from lumina_jax.cli import load_run_file
from lumina_jax.model.params import abstract_params, count_params
from lumina_jax.plan import run_plan
from lumina_jax.plan.command import main
from lumina_jax.plan.compile import Compiled, OutOfMemory, compile_lowered

REFUSED = {
    "no topology": ([], r"name a topology"),
    "unknown chip": (["--topology", "v9:2x2"], r"accelerator 'v9'"),
    "stage": (["--topology", "v5e:2x2", "--stage", "2"], r"has stages 0 to 1"),
    "records": (
        ["--topology", "v5e:2x2", "--records-a-row", "1", "2", "3"],
        r"want one number or 2",
    ),
    "filled": (["--topology", "v5e:2x2", "--filled", "1.5"], r"--filled more than 0 and at most 1"),
    "batch": (
        ["--topology", "v5e:4x4", "--no-compile"],
        r"batch_size 8 does not divide over the mesh",
    ),
    "search on cpu": (
        ["--topology", "cpu:4", "--search"],
        r"nothing is known of the memory of 'cpu'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_planned_is_refused(case: str, run_file: str):
    arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        main([run_file, *arguments])


def test_vqgan_run_is_refused():
    with pytest.raises(ValueError, match="trains a vqgan: want one of a transformer"):
        main(["configs/scenes_vqgan.py", "--topology", "v5e:2x2"])


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str]:
    """(exit code, what was printed)."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(str(stopped.value.code)), capsys.readouterr().out


def test_plan_without_a_compiler_counts_and_projects(run_file: str, tmp_path: Path, capsys):
    arguments = [
        "--topology",
        "v5e:2x2",
        "--no-compile",
        "--price",
        "2",
        "--records-a-row",
        "2",
        "4",
    ]
    code, said = run(capsys, run_file, *arguments, "--json", str(tmp_path / "plan.json"))
    assert code == 0
    assert "4 v5e (v5e:2x2), fsdp: fsdp 4" in said and "fits" not in said
    assert "assumed: 4 records a row of stage 1" in said
    found = json.loads((tmp_path / "plan.json").read_text())
    first, second = found["stages"]
    config = load_run_file(run_file).model.transformer
    weights = 4 * count_params(abstract_params(config))
    # norms over heads are not split, all other weights are
    assert weights / 4 <= first["argued"]["parts"]["weights"] < 1.01 * weights / 4
    assert first["argued"]["parts"]["batch"] == 6 * 4 * 2 * 256
    assert second["model_flops"] > first["model_flops"]
    seconds = sum(10 * stage["projection"]["seconds"] for stage in found["stages"])
    assert found["run"]["chip_hours"] == pytest.approx(4 * seconds / 3600 / 0.95)
    assert found["run"]["cost"] == pytest.approx(2 * found["run"]["chip_hours"])


def with_fake_compiler(monkeypatch: pytest.MonkeyPatch, result: Compiled | OutOfMemory) -> None:
    def compile_stage(*arguments: object) -> Compiled:
        if isinstance(result, OutOfMemory):
            raise result
        return result

    monkeypatch.setattr(run_plan, "compile_stage", compile_stage)
    devices = jax.devices()[:4]
    monkeypatch.setattr(run_plan.Topology, "devices", lambda self: devices)


def test_refusal_for_memory_is_one_line_and_exit_code_1(run_file: str, monkeypatch, capsys):
    with_fake_compiler(monkeypatch, OutOfMemory("used 20G of 15.75G", None))
    code, said = run(capsys, run_file, "--topology", "v5e:2x2", "--stage", "0")
    assert code == 1
    assert "does not fit: the compiler gave up, used 20G of 15.75G; try more chips" in said


@pytest.mark.parametrize(("gigabytes", "code"), [(14.3, 0), (14.5, 1)])
def test_a_tenth_of_the_memory_stays_free(run_file: str, gigabytes, code, monkeypatch, capsys):
    """Of 16 GB."""
    needed = Compiled(1.0, int(gigabytes * 1e9), 10**8, 10**8, 10**7, 10**7, text=None)
    with_fake_compiler(monkeypatch, needed)
    found, said = run(capsys, run_file, "--topology", "v5e:2x2", "--stage", "0")
    assert found == code and ("does not fit: peak" in said) == bool(code)
    assert "wants jax 0.11 or newer" in said


@pytest.mark.parametrize(
    ("told", "wanted", "used"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
            "used 20.50G of 15.75G",
            int(20.5 * 2**30),
        ),
        ("RESOURCE_EXHAUSTED: no room\n for it", "RESOURCE_EXHAUSTED: no room for it", None),
    ],
)
def test_compiler_out_of_memory_is_told_apart(told: str, wanted: str, used: int | None):
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError(told)

    with pytest.raises(OutOfMemory) as refused:
        compile_lowered(Lowered())
    assert (str(refused.value), refused.value.used_bytes) == (wanted, used)


def test_other_errors_of_a_compiler_are_not_hidden():
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        compile_lowered(Lowered())


@pytest.mark.slow
def test_real_step_on_cpu_devices_takes_what_its_shapes_say(run_file: str, tmp_path: Path, capsys):
    code, said = run(capsys, run_file, "--topology", "cpu:2", "--json", str(tmp_path / "plan.json"))
    assert code == 0 and "peak" in said and "of an unknown memory" in said
    for stage in json.loads((tmp_path / "plan.json").read_text())["stages"]:
        counter = 4 + 2 * 4  # the step's, and those of the optimiser's two parts are among its own
        told, parts = stage["compiled"]["arguments"], sum(stage["argued"]["parts"].values())
        assert 0 <= told - parts <= counter
        assert stage["loop"]["num_loops"] == 2 and stage["loop"]["bytes"] > 0
        assert stage["compiled"]["temporary"] > 0 and stage["fits"] is None
