"""The folder of a run: which config it belongs to, and what of it may change when the run is resumed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_jax.checkpoint import on_first_process, write_json
from lumina_jax.config_json import config_from_dict, config_to_dict, differing_fields
from lumina_jax.experiment import Experiment
from lumina_jax.paths import make_folder

# Fields that a resumed run may change: none reaches the weights, but for roundings (and dropout's draws: accumulation).
FREE_FIELDS = {
    "": ("sample", "description"),
    "data": ("num_workers",),
    "train": (
        *("log_every", "save_every", "keep_last", "keep_every", "mesh", "wandb", "peak_tflops"),
        *("eval_every", "eval_prompts", "eval_source", "eval_batches", "hang_minutes"),
        "accumulation",
        "max_nonfinite",  # reaches the weights only where the run would have ended
    ),
}
ASSETS = "made_with"  # key of the assets' digests beside the config's own


def claim_workdir(
    experiment: Experiment, workdir: Path, made_with: Mapping[str, str] | None = None
) -> None:
    """Write the config into a new workdir; ValueError when it holds another run's.

    `made_with`: digests of the assets, {"vqgan": …, "tokenizer": …}: with others in their place the same ids would
    mean other things from one step to the next.
    """
    file, content = workdir / "config.json", config_to_dict(experiment)
    made_with = dict(made_with or {})
    if file.exists():
        before, its_assets = _read_config(file)
        found = differing_fields(_bound(before), _bound(content))
        found += differing_fields(its_assets, made_with, "assets")
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise ValueError(
                f"{workdir} holds a run of another config ({'; '.join(found[:3])}{more}): "
                "use another --workdir, or the same settings to resume"
            )

    def write() -> None:
        make_folder(workdir)
        write_json(file, {**content, ASSETS: made_with})

    on_first_process(write)


def read_experiment(workdir: Path) -> Experiment:
    """The experiment of the run in a workdir; ValueError or OSError of one line where there is none."""
    content, _ = _read_config(workdir / "config.json")
    return config_from_dict(Experiment, content)


def _read_config(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A workdir's config as this version would write it, new fields at their defaults; and its assets' digests."""
    try:
        content = json.loads(file.read_text())
        made_with = content.pop(ASSETS, {})
        return config_to_dict(config_from_dict(Experiment, content)), made_with
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: not a run's config ({error}); use another --workdir") from error


def _bound(content: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that a run cannot change halfway."""
    bound = {name: value for name, value in content.items() if name not in FREE_FIELDS[""]}
    for part in ("data", "train"):
        free = FREE_FIELDS[part]
        bound[part] = {name: value for name, value in content[part].items() if name not in free}
    mixed = {name for stage in content["train"]["stages"] for name, _ in stage["mixture"]}
    bound["data"]["sources"] = [s for s in content["data"]["sources"] if s["name"] in mixed]
    return bound
