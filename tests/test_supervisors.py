"""What supervisors do with the codes of a run: pretended lives, checkpoints and SLURM."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
# A Python that is train.py and cluster/progress.py: each life is a line, its code and the step it saved, if any.
LIFE = """#!/bin/bash
if [ "$1" = -m ]; then cat saved; exit; fi
read -r code step <lives
sed -i 1d lives
if [ -n "$step" ]; then echo "$step" >saved; fi
exit "$code"
"""
SRUN = """#!/bin/bash
shift
SLURM_PROCID=1 "$@"
"""
SCONTROL = """#!/bin/bash
echo "$*" >>requeued
"""
SUPERVISED = {  # lives -> the supervisor's code, how many lives are left
    "done": (["0"], 0, 0),
    "a setting": (["2", "0"], 2, 1),
    "Ctrl-C twice": (["130", "0"], 130, 1),
    "a hang, an abort, done": (["3", "134", "0"], 0, 0),
    "another host was told to go": (["75"] * 7 + ["0"], 0, 0),
    "five in a row": (["1", "1", "1", "1", "1", "0"], 1, 1),
    "five, but they saved": (["1 10", "1 20", "1 30", "3", "1 40", "134", "1 50", "0"], 0, 0),
    "they saved, then no more": (["1 10", "1 20", "1", "1", "1", "1", "0"], 1, 1),
}


def write_script(file: Path, text: str) -> None:
    """One that can be run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a pretended Python and SLURM."""
    write_script(tmp_path / ".venv/bin/python", LIFE)
    write_script(tmp_path / "bin/srun", SRUN)
    write_script(tmp_path / "bin/scontrol", SCONTROL)
    (tmp_path / "saved").touch()
    (tmp_path / "launch").symlink_to(LAUNCH)
    return tmp_path


def lives_left(place: Path, lives: list[str]) -> int:
    """How many of them nobody lived."""
    left = (place / "lives").read_text().splitlines()
    assert left == lives[len(lives) - len(left) :]
    return len(left)


@pytest.mark.parametrize("case", SUPERVISED)
def test_the_supervisor_starts_again_what_it_helps(case: str, place: Path) -> None:
    lives, code, left = SUPERVISED[case]
    (place / "lives").write_text("".join(f"{life}\n" for life in lives))
    environment = {"PAUSE": "0", "LOG_SECONDS": "0", "PATH": "/usr/bin:/bin", "ENDED": "ended"}
    python = str(place / ".venv/bin/python")
    command = [LAUNCH / "supervise.sh", python, "train.py", "run.py", "--workdir", "x"]
    done = subprocess.run(command, env=environment, timeout=60, cwd=place)
    assert (done.returncode, lives_left(place, lives)) == (code, left)
    assert (place / "ended").read_text() == f"{code}\n"


QUEUED = {  # lives -> the job's code in each, whether it asks for another
    "done": (["0"], [(0, False)]),
    "a setting": (["2"], [(2, False)]),
    "the limit, done": (["75 10", "0"], [(0, True), (0, False)]),
    "told to go at once, seven times": (["75"] * 7, [(0, True)] * 7),
    "no room": (["1"] * 5, [(0, True)] * 4 + [(1, False)]),
    "deaths, but it saves": (["134", "134 10"] * 4, [(0, True)] * 8),
}


@pytest.mark.parametrize("case", QUEUED)
def test_slurm_queues_again_what_it_helps(case: str, place: Path) -> None:
    lives, jobs = QUEUED[case]
    # a step that is saved is another one each time
    texts = [life.replace(" 10", f" {index}") for index, life in enumerate(lives)]
    (place / "lives").write_text("".join(f"{life}\n" for life in texts))
    environment = {"PATH": f"{place}/bin:/usr/bin:/bin", "LOG_SECONDS": "0", "SLURM_JOB_ID": "7"}
    for code, again in jobs:
        command = ["bash", LAUNCH / "slurm_a100.sbatch", "run.py", "x"]
        done = subprocess.run(command, env=environment, timeout=60, cwd=place)
        asked = place / "requeued"
        assert (done.returncode, asked.exists()) == (code, again)
        if again:
            assert asked.read_text() == "requeue 7\n"
            asked.unlink()
    assert lives_left(place, texts) == 0
    assert not list(place.glob("slurm-7-*"))


def test_the_supervisor_hands_sigterm_on_and_ends(tmp_path: Path) -> None:
    said = tmp_path / "said"
    at_the_end = f"sleep 0.2; echo saved >> {said}; exit 75"
    life = f"trap '{at_the_end}' TERM; echo begun > {said}; while :; do sleep 0.05; done"
    environment = {"LOG_SECONDS": "0", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [LAUNCH / "supervise.sh", "bash", "-c", life], env=environment
    ) as process:
        while not said.exists():
            pass
        process.terminate()
        assert process.wait(timeout=20) == 75
    assert said.read_text().split() == ["begun", "saved"]
