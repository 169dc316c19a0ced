"""Cast a trained checkpoint to the dtype it is shipped in, with the sampling settings that suit it.

python -m lumina_jax.release runs/scenes/model lumina_jax/assets/scenes --guidance 3
python -m lumina_jax.release runs/omni/model released --guidance 2.5 --task-settings settings.json
"""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from tyro.conf import Positional

from lumina_jax.checkpoint import digest, load_model, read_config, save_model
from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.config import SampleConfig, TaskSampling
from lumina_jax.config_json import config_from_dict, config_to_dict
from lumina_jax.evals.choosing import chosen
from lumina_jax.evals.report import read_report


@dataclass(frozen=True)
class Options:
    """The command line: a trained checkpoint, and where to write the cast one."""

    source: Positional[Path]
    target: Positional[Path]
    dtype: str = "bfloat16"  # or float32
    guidance: float | None = None  # settings that `Lumina.load` makes the model's own
    temperature: float | None = None
    image_top_k: int | None = None
    # those of answers to tasks: a file that `python -m lumina_jax.evals --choose-settings` wrote
    task_settings: Path | None = None


def release(
    source: str | Path,
    target: str | Path,
    dtype: str = "bfloat16",
    sample: SampleConfig | None = None,
) -> Path:
    """Write the model checkpoint `source` to `target` with every floating-point weight as `dtype`.

    `sample`: how the model draws unless told otherwise; None keeps what `source` says. Raises CheckpointError when
    `source` is not a whole checkpoint, ValueError for an unknown dtype.
    """
    if dtype not in ("bfloat16", "float32"):
        raise ValueError(f"dtype {dtype!r}: want bfloat16 or float32")
    model = load_model(source)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), model.params)
    _, notes = read_config(source)
    notes = {**notes, "dtype": dtype}
    if sample is not None:
        notes["sample"] = config_to_dict(sample)
    return save_model(target, params, model.config, model.tokenizer, notes)


def main() -> None:
    """Read the command line."""
    options = parse_arguments(Options, prog="python -m lumina_jax.release")
    sample = _named_settings(options)
    print(f"wrote {release(options.source, options.target, options.dtype, sample)}")


def _named_settings(options: Options) -> SampleConfig | None:
    """The source's own settings with those of the command line above them; None where it names none."""
    names = ("guidance", "temperature", "image_top_k")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.task_settings is not None:
        given["by_task"] = _choice(options.task_settings, options.source)
    if not given:
        return None
    own = read_config(options.source)[1].get("sample", {})
    return replace(config_from_dict(SampleConfig, own), **given)


def _choice(path: Path, source: Path) -> tuple[TaskSampling, ...]:
    """The settings of tasks that a file holds for the checkpoint `source`; ValueError of one line for another file."""
    found = read_report(path)
    if found is None:
        raise ValueError(f"{path}: no such file; `python -m lumina_jax.evals` writes one")
    if (own := digest(source)) != found.get("checkpoint"):
        raise ValueError(
            f"{path}: chosen for the checkpoint {found.get('checkpoint')}, {source} is {own}; choose anew"
        )
    try:
        return chosen(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


if __name__ == "__main__":
    run_main(main)
