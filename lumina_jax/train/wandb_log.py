"""The log's numbers on Weights & Biases, for runs that ask for it; the library is imported then and not before."""

import importlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_jax.checkpoint import write_json
from lumina_jax.paths import is_remote

FILE = (
    "wandb.json"  # in the workdir: the run's id, so that a resumed run goes on in the same curves
)


class WandbLog:
    """One run of a project; its library's own settings (WANDB_MODE=offline, WANDB_DIR, …) hold."""

    def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]):
        """Raises ValueError where the library is absent."""
        library = import_wandb()
        file = workdir / FILE
        if file.exists():
            run_id = json.loads(file.read_text())["id"]
        else:
            run_id = secrets.token_hex(8)
            write_json(file, {"id": run_id})
        folder = None if is_remote(workdir) else str(workdir)
        options = {"id": run_id, "resume": "allow", "name": workdir.name, "dir": folder}
        self._run = library.init(project=project, config=dict(config), **options)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """One point of every curve. Steps that the run logged before it was killed are ignored: they are the same."""
        self._run.log(dict(numbers), step=step)

    def close(self, exit_code: int = 0) -> None:
        """Send what is left; another `exit_code` than 0 marks the run as failed."""
        self._run.finish(exit_code=exit_code)


def import_wandb() -> Any:
    """The library; ValueError of one line where it is absent."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise ValueError(
            'train.wandb wants the library wandb: pip install wandb, or leave the setting ""'
        ) from None
