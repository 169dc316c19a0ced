"""What can be scored: a model's folder, or a training checkpoint of a run, at WORKDIR/checkpoints/STEP."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax

from lumina_jax.experiment import MeshConfig
from lumina_jax.lumina import Lumina
from lumina_jax.paths import absolute, as_path
from lumina_jax.sharding import make_layout
from lumina_jax.train.checkpoints import FOLDER, read_checkpoint
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.program import train_program
from lumina_jax.train.trainees import make_trainee
from lumina_jax.train.workdir import read_experiment


def load_scored(path: str | Path, precision: str | None = None) -> Lumina:
    """A model by its folder or name, or the one that a training checkpoint releases."""
    folder = as_path(path)
    if folder.parent.name == FOLDER and folder.name.isdecimal():
        return _of_training(absolute(folder), precision)
    return Lumina.load(path, precision=precision)


def kept_checkpoints(workdir: str | Path) -> list[Path]:
    """The complete training checkpoints of a run, first to last; ValueError where there are none."""
    folder = absolute(workdir) / FOLDER
    found = [path for path in folder.glob("*") if path.name.isdecimal()]
    if not found:
        raise ValueError(f"{folder}: no training checkpoint there; want the workdir of a run")
    return sorted(found, key=lambda path: int(path.name))


def load_all(paths: Sequence[str | Path]) -> list[Path]:
    """What paths name: a workdir with checkpoints stands for all of them."""
    found: list[Path] = []
    for path in map(as_path, paths):
        found += kept_checkpoints(path) if (path / FOLDER).is_dir() else [path]
    return found


def _of_training(folder: Path, precision: str | None) -> Lumina:
    """The model that the run would release at this step, its average weights where it keeps them."""
    experiment = read_experiment(folder.parents[1])
    if experiment.trainee != "transformer" or experiment.train.lora is not None:
        raise ValueError(
            f"{folder}: keeps a VQGAN or adapters alone; score {folder.parents[1] / 'model'}"
        )
    train = replace(experiment.train, mesh=MeshConfig())  # one device, whatever it is trained on
    experiment = replace(experiment, train=train)
    curriculum, layout = Curriculum(train.stages), make_layout(train.mesh)
    trainee = make_trainee(experiment, curriculum, layout)
    program = train_program(
        experiment,
        curriculum,
        layout,
        init=trainee.init,
        step=trainee.step,
        shardings=trainee.shardings,
    )
    state, _ = read_checkpoint(folder, program.state)
    params = jax.device_get(trainee.release(state))
    return Lumina(
        experiment.model,
        params["transformer"],
        params["vqgan"],
        trainee.tokenizer,
        experiment.sample,
        precision=precision,
    )
