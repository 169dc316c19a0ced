"""Converts weights between PyTorch's layouts and ours, says what a folder holds, and compares two.

python -m lumina_jax.convert SRC DST [--to lumina] [--adapter FOLDER] | inspect PATH | verify A B
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.convert.adapters import with_adapter
from lumina_jax.convert.inspection import PARTS, describe_weights, differences
from lumina_jax.convert.layouts import open_weights
from lumina_jax.convert.model_config import SourceOptions, preset_name
from lumina_jax.convert.to_checkpoint import CheckpointOptions, write_checkpoint
from lumina_jax.convert.to_layout import TARGETS, write_layout
from lumina_jax.dims import pick

PROG = "python -m lumina_jax.convert"
MAX_SHOWN = 10  # differences
Flat = tyro.conf.arg(name="")  # `--dtype`, not `--changes.dtype`


@dataclass(frozen=True)
class Convert:
    """Write the weights of SOURCE, of any layout, to DESTINATION.

    What SOURCE is, is seen from its files. `inspect PATH` and `verify A B` are commands of their own.
    """

    source: Positional[str]
    destination: Positional[str]
    # checkpoint (ours), meta (the original's code), lumina (Lumina-mGPT's), transformers
    to: str = "checkpoint"
    adapter: str | None = None  # a folder of PEFT's format (LoRA) to merge into the weights
    options: Annotated[SourceOptions, Flat] = SourceOptions()
    changes: Annotated[CheckpointOptions, Flat] = CheckpointOptions()


@dataclass(frozen=True)
class Inspect:
    """Say what PATH holds: layout, preset, parameters, dtypes, bytes, digests."""

    path: Positional[str]
    every_array: bool = False  # also a line for each
    options: Annotated[SourceOptions, Flat] = SourceOptions()


@dataclass(frozen=True)
class Verify:
    """Compare two models bit by bit, whatever their layouts; ends with exit code 1 where they differ."""

    first: Positional[str]
    second: Positional[str]
    options: Annotated[SourceOptions, Flat] = SourceOptions()  # of both


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line: a command's name first, or a source to convert."""
    commands = {"inspect": (Inspect, inspect), "verify": (Verify, verify)}
    arguments = sys.argv[1:] if arguments is None else arguments
    name, *rest = arguments or [""]
    if name in commands:
        kind, run = commands[name]
        run(parse_arguments(kind, rest, prog=f"{PROG} {name}"))
    else:
        convert(parse_arguments(Convert, arguments, prog=PROG))


def convert(command: Convert) -> None:
    """SOURCE to DESTINATION, saying what was found and written."""
    pick({"checkpoint": None, **TARGETS}, command.to, "target")
    weights = open_weights(command.source, command.options)
    if command.adapter is not None:
        weights = with_adapter(weights, command.adapter)
    for line in weights.findings:
        print(line)
    transformer = weights.config.transformer
    config = weights.config
    print(
        f"preset: {preset_name(transformer)}, {weights.nbytes:,} bytes, {transformer.param_dtype}"
    )
    print(
        f"image layout: {config.image_layout} (--image-layout), trained at {config.target_px} px (--target-px), "
        f"{config.max_tokens} tokens (--max-tokens)"
    )
    if command.to == "checkpoint":
        written = write_checkpoint(weights, command.destination, command.changes)
    else:
        if command.changes != CheckpointOptions():
            raise ValueError(
                "--dtype and --zero-code-logits change a checkpoint; convert to one first"
            )
        written, left_out = write_layout(weights, command.destination, command.to)
        for line in left_out:
            print(f"left out: {line}")
    print(f"wrote {written}")


def inspect(command: Inspect) -> None:
    """Print what PATH is."""
    weights = open_weights(command.path, command.options, alone=True)
    print(describe_weights(weights, command.every_array))


def verify(command: Verify) -> None:
    """Print where two models differ."""
    first, second = (
        open_weights(path, command.options, alone=True) for path in (command.first, command.second)
    )
    both = [part for part in PARTS if first.part(part) and second.part(part)]
    if not both:
        raise ValueError(f"{command.first} and {command.second} hold no part in common")
    found = differences(first, second)
    for difference in found[:MAX_SHOWN]:
        print(f"{difference.name}: {difference.reason}")
    if len(found) > MAX_SHOWN:
        print(f"… and {len(found) - MAX_SHOWN} more")
    if found:
        print(
            f"error: {len(found)} differences between {command.first} and {command.second}",
            file=sys.stderr,
        )
        sys.exit(1)
    size = sum(leaf.nbytes for part in both for leaf in first.part(part).values())
    print(f"the same weights: {' and '.join(both)}, {size:,} bytes")


if __name__ == "__main__":
    run_main(main)
