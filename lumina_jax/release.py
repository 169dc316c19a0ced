"""Cast a trained checkpoint to the dtype it is shipped in.

python -m lumina_jax.release runs/scenes/model lumina_jax/assets/scenes
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from tyro.conf import Positional

from lumina_jax.checkpoint import load_model, read_config, save_model
from lumina_jax.cli import run_main


@dataclass(frozen=True)
class Options:
    """The command line: a trained checkpoint, and where to write the cast one."""

    source: Positional[Path]
    target: Positional[Path]
    dtype: str = "bfloat16"  # or float32


def release(source: str | Path, target: str | Path, dtype: str = "bfloat16") -> Path:
    """Write the model checkpoint `source` to `target` with every floating-point weight as `dtype`.

    Raises CheckpointError when `source` is not a whole checkpoint, ValueError for an unknown dtype.
    """
    if dtype not in ("bfloat16", "float32"):
        raise ValueError(f"dtype {dtype!r}: want bfloat16 or float32")
    model = load_model(source)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), model.params)
    _, notes = read_config(source)
    return save_model(target, params, model.config, model.tokenizer, {**notes, "dtype": dtype})


def main() -> None:
    """Read the command line."""
    options = tyro.cli(Options, prog="python -m lumina_jax.release")
    print(f"wrote {release(options.source, options.target, options.dtype)}")


if __name__ == "__main__":
    run_main(main)
