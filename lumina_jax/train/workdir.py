"""The folder of a run: which config it belongs to, and what of it may change when the run is resumed."""

import json
from pathlib import Path
from typing import Any

from lumina_jax.checkpoint import on_first_process, write_json
from lumina_jax.config import Experiment
from lumina_jax.config_json import config_from_dict, config_to_dict, differing_fields

# Fields that a resumed run may change, because none of them reaches the weights.
FREE_FIELDS = {
    "": ("sample", "description"),
    "data": ("num_workers",),
    "train": ("log_every", "save_every", "keep_last", "eval_every", "eval_prompts", "mesh"),
}


def claim_workdir(experiment: Experiment, workdir: Path) -> None:
    """Write the config into a new workdir; ValueError when it holds another run's."""
    file, content = workdir / "config.json", config_to_dict(experiment)
    if file.exists():
        found = differing_fields(_bound(_read_config(file)), _bound(content))
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise ValueError(
                f"{workdir} holds a run of another config ({'; '.join(found[:3])}{more}): "
                "use another --workdir, or the same settings to resume"
            )

    def write() -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(file, content)

    on_first_process(write)


def _read_config(file: Path) -> dict[str, Any]:
    """A workdir's config as this version would write it: fields that are new since have their defaults."""
    try:
        return config_to_dict(config_from_dict(Experiment, json.loads(file.read_text())))
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: not a run's config ({error}); use another --workdir") from error


def _bound(content: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that a run cannot change halfway."""
    bound = {name: value for name, value in content.items() if name not in FREE_FIELDS[""]}
    for part in ("data", "train"):
        free = FREE_FIELDS[part]
        bound[part] = {name: value for name, value in content[part].items() if name not in free}
    return bound
