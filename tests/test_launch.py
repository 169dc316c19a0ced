"""The scripts of launch/ and the commands of the guides: they parse, and train.py knows what they pass."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from lumina_jax.cli import parse_run
from lumina_jax.data_config import RecordSource
from lumina_jax.experiment import Experiment
from lumina_jax.plan.split import plan_layout
from lumina_jax.train.program import check_batches

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
        command = re.split(r"train\.py\s+", line)[-1]
        command = re.sub(r"\"?\$\{?([\w@]+)\}?\"?", lambda match: SHELL_WORDS[match[1]], command)
        command = re.split(r"[;|&`'…\[>]| #", command)[0]
        if command.count('"') % 2:  # the end of a longer string
            command = command.rpartition('"')[0]
        found.append(shlex.split(command))
    return found


def launches(text: str) -> list[tuple[int, list[str]]]:
    """(chips, train.py's arguments) of every `launch/tpu_slice.sh …`, `sbatch launch/slurm_a100.sbatch …` of a text."""
    found = []
    for line in re.sub(r"\\\n#?", " ", text).splitlines():
        slices = re.search(r"launch/tpu_slice\.sh \S+ v(5litepod|6e)-(\d+) \S+ (configs/.*)", line)
        slurm = re.search(r"sbatch launch/slurm_a100\.sbatch (configs/.*)", line)
        rest = slices[3] if slices else slurm[1] if slurm else None
        if rest is not None:
            chips = int(slices[2]) if slices else gpus_of_slurm()
            run_file, workdir, *options = shlex.split(rest.split("[")[0])
            found.append((chips, [run_file, "--workdir", workdir, *options]))
    return found


def gpus_of_slurm() -> int:
    """Of the whole job."""
    text = (LAUNCH / "slurm_a100.sbatch").read_text()
    nodes, gpus = (
        re.search(rf"^#SBATCH --{name}=(\d+)", text, re.M) for name in ("nodes", "gpus-per-node")
    )
    assert nodes and gpus
    return int(nodes[1]) * int(gpus[1])


def assert_divides(experiment: Experiment, chips: int) -> None:
    """Its batches, over as many chips."""
    check_batches(experiment, plan_layout(experiment.train.mesh, chips))


def paths_of(options: list[str]) -> list[str]:
    """What a run reads and writes."""
    run, experiment = parse_run(options)
    sources = [str(x.path) for x in experiment.data.sources if isinstance(x, RecordSource)]
    return [str(run.workdir), str(run.init), experiment.assets, *sources]


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


@pytest.mark.parametrize(
    ("name", "count"),
    [("launch/tpu_slice.sh", 1), ("launch/slurm_a100.sbatch", 1), ("docs/clusters.md", 2)],
)
def test_batches_divide_over_the_chips_that_a_launch_names(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    found = launches((ROOT / name).read_text())
    assert len(found) == count
    for chips, command in found:
        experiment = parse_run(command)[1]
        assert_divides(experiment, chips)
        if name.startswith("docs") and command[2].startswith("gs://"):
            assert all(path.startswith("gs://") for path in paths_of(command))


def test_batches_that_do_not_divide_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ((chips, command),) = launches(
        "launch/tpu_slice.sh x v5litepod-256 z configs/fp_sft_7b.py gs://a/b"
    )
    with pytest.raises(ValueError, match="batch_size 64 does not divide over the mesh"):
        assert_divides(parse_run(command)[1], chips)


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
    assert_divides(experiment, chips * job["replicas"])
    assert all(path.startswith("gs://BUCKET/") for path in paths_of(options))
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
