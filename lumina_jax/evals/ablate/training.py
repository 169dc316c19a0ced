"""The training of one arm from one seed, in a process of its own; cut off, it goes on where it stopped."""

from pathlib import Path

from lumina_jax.checkpoint import CheckpointError, read_config
from lumina_jax.config_json import config_to_dict, differing_fields
from lumina_jax.evals.ablate.arms import Run
from lumina_jax.evals.ablate.children import in_child
from lumina_jax.experiment import Experiment
from lumina_jax.train.workdir import read_experiment


def check_workdir(run: Run) -> None:
    """ValueError of one line where a run's folder holds another experiment, before anything is trained."""
    if not (run.workdir / "config.json").exists():
        return
    there, wanted = (
        config_to_dict(each) for each in (read_experiment(run.workdir), run.experiment)
    )
    found = differing_fields(there, wanted)
    if found:
        raise ValueError(
            f"{run.workdir} holds another run ({'; '.join(found[:3])}): use another WORKDIR, or the same settings"
        )


def is_trained(run: Run) -> bool:
    """Whether the run's model is that of its last step."""
    total = sum(stage.steps for stage in run.experiment.train.stages)
    try:
        return read_config(run.workdir / "model")[1].get("step") == total
    except CheckpointError:
        return False


def train_run(run: Run, data_dir: Path, cpu_devices: int = 1) -> None:
    """Train to the end, or from the last checkpoint on; records are found or made in `data_dir`.

    Raises ChildProcessError of one line where the process ended before its last step.
    """
    arguments = (run.experiment, run.workdir, data_dir, cpu_devices)
    code = in_child(_train, arguments)
    if not is_trained(run):
        raise ChildProcessError(
            f"arm {run.arm}, seed {run.seed}: its training ended with code {code} before the last step; what it "
            "printed says why, and the same command goes on"
        )


def _train(experiment: Experiment, workdir: Path, data_dir: Path, cpu_devices: int) -> None:
    """What train.py does on one machine, without its pictures."""
    import jax

    from lumina_jax.train.loop import train

    if cpu_devices > 1:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    train(experiment, workdir, data_dir=data_dir)
