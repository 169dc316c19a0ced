"""Cast a trained checkpoint to the dtype it is shipped in, with the sampling settings that suit it.

python -m lumina_jax.release runs/scenes/model lumina_jax/assets/scenes --guidance 3
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from tyro.conf import Positional

from lumina_jax.checkpoint import load_model, read_config, save_model
from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.config import SampleConfig
from lumina_jax.config_json import config_to_dict


@dataclass(frozen=True)
class Options:
    """The command line: a trained checkpoint, and where to write the cast one."""

    source: Positional[Path]
    target: Positional[Path]
    dtype: str = "bfloat16"  # or float32
    guidance: float | None = None  # settings that `Lumina.load` makes the model's own
    temperature: float | None = None
    image_top_k: int | None = None


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
    names = ("guidance", "temperature", "image_top_k")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    sample = SampleConfig(**given) if given else None
    print(f"wrote {release(options.source, options.target, options.dtype, sample)}")


if __name__ == "__main__":
    run_main(main)
