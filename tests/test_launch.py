"""The scripts of launch/ and the commands of the guides: they parse, and train.py knows what they pass."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from lumina_jax.cli import parse_run

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
GUIDES = [ROOT / "docs" / name for name in ("clusters.md", "training.md")]
SHELL_WORDS = {"run_file": "configs/fp_sft_7b.py", "workdir": "gs://bucket/run", "options": ""}
SHELL_WORDS |= {"@": "", "USER": "ann", "RUN_FILE": "configs/fp_sft_7b.py", "name": "run"}


def commands(text: str) -> list[list[str]]:
    """What stands behind every `train.py` of a script or a guide's code, with variables replaced."""
    text = text.replace("\\\n", " ")
    lines = [
        line
        for line in text.splitlines()
        if re.search(r"train\.py\s+[\w$\"./]*(run_file|configs)", line)
    ]
    found = []
    for line in lines:
        line = re.sub(r"\"?\$\{?([\w@]+)\}?\"?", lambda match: SHELL_WORDS[match[1]], line)
        command = re.split(r"train\.py\s+", line)[-1]
        command = re.split(r"[;|&`'…\[]| #", command)[0]
        if command.count('"') % 2:  # the end of a longer string
            command = command.rpartition('"')[0]
        found.append(shlex.split(command))
    return found


def jobset() -> dict:
    """The job of two slices."""
    (found,) = yaml.safe_load_all((LAUNCH / "gke_multislice.yaml").read_text())
    return found


def pod() -> dict:
    """What its pods are."""
    (job,) = jobset()["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("path", [*SCRIPTS, *GUIDES], ids=lambda path: path.name)
def test_train_py_takes_what_is_passed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = commands(path.read_text())
    assert found or path.name == "supervise.sh"
    for command in found:
        parse_run(command)


def test_flags_that_are_not_there_are_noticed() -> None:
    (command,) = commands('srun python train.py "$run_file" \\\n --workdir x --heartbeat 3; echo')
    assert command == [SHELL_WORDS["run_file"], "--workdir", "x", "--heartbeat", "3"]
    with pytest.raises(ValueError, match="heartbeat"):
        parse_run([str(ROOT / command[0]), *command[1:]])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)


def test_the_job_of_two_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (job,) = jobset()["spec"]["replicatedJobs"]
    hosts, (container,) = job["template"]["spec"], pod()["containers"]
    chips = hosts["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    rows, columns = pod()["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert hosts["completions"] == hosts["parallelism"] and chips == int(rows) * int(columns)
    supervisor, python, script, *options = container["command"]
    assert (ROOT / supervisor).stat().st_mode & 0o100 and (python, script) == ("python", "train.py")
    run, experiment = parse_run(options)
    assert (run.distributed, str(run.workdir)) == ("auto", "gs://BUCKET/run")
    assert experiment.train.mesh.num_devices == chips * job["replicas"]
    assert dict(experiment.train.mesh.axes)["data"] == job["replicas"]


def test_the_image_copies_what_is_there_and_runs_without_root() -> None:
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    copied = [name for word in words if word[0] == "COPY" for name in word[1:-1]]
    given = (ROOT / ".dockerignore").read_text().splitlines()
    for name in copied:
        assert (ROOT / name).exists(), name
        top = name.split("/")[0]
        assert f"!{top}" in given or (
            top.startswith("requirements") and "!requirements*.txt" in given
        )
    assert ["ARG", "ACCELERATOR=tpu"] in words and ["USER", "lumina"] in words
    assert "lumina_jax/assets" in given and given.index("*") < given.index("!lumina_jax")


SUPERVISED = {  # codes of the lives -> the supervisor's code
    "done": ([0], 0),
    "a setting": ([2, 0], 2),
    "Ctrl-C twice": ([130, 0], 130),
    "a hang, an abort, done": ([3, 134, 0], 0),
    "five in a row": ([1, 1, 1, 1, 1, 0], 1),
}


@pytest.mark.parametrize("case", SUPERVISED)
def test_the_supervisor_starts_again_what_it_helps(case: str, tmp_path: Path) -> None:
    codes, expected = SUPERVISED[case]
    lives = tmp_path / "lives"
    lives.write_text("".join(f"{code}\n" for code in codes))
    life = f"code=$(head -n 1 {lives}); sed -i 1d {lives}; exit $code"
    environment = {"PAUSE": "0", "LOG_SECONDS": "0", "PATH": "/usr/bin:/bin"}
    command = [LAUNCH / "supervise.sh", "bash", "-c", life]
    assert subprocess.run(command, env=environment, timeout=60).returncode == expected
    left = lives.read_text().split()
    assert left == ([] if expected == 0 else ["0"])


def test_the_supervisor_hands_sigterm_on_and_ends(tmp_path: Path) -> None:
    said = tmp_path / "said"
    at_the_end = f"sleep 0.2; echo saved >> {said}; exit 0"
    life = f"trap '{at_the_end}' TERM; echo begun > {said}; sleep 30 & wait"
    environment = {"LOG_SECONDS": "0", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [LAUNCH / "supervise.sh", "bash", "-c", life], env=environment
    ) as process:
        while not said.exists():
            pass
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert said.read_text().split() == ["begun", "saved"]
