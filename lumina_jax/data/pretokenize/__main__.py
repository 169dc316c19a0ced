"""Tokenise any corpus of images and texts, once, into a folder that training reads.

python -m lumina_jax.data.pretokenize SRC DST [--checkpoint FOLDER] [--target-px 512 768]

SRC: a .json or .jsonl of conversations or captions, a folder of images with .txt beside or with one table, a .csv, a
TFDS dataset, WebDataset tars, or the original's pre-tokenised pickles. The same command goes on after a kill.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.data.pretokenize.options import RunOptions, SourceOptions, TokeniseOptions

Flat = tyro.conf.arg(name="")  # `--kind`, not `--source.kind`


@dataclass(frozen=True)
class Options:
    """What is tokenised, how, and into which folder."""

    # what is read: its kind is found by looking
    src: tyro.conf.Positional[Path]
    # made, or gone on with; a folder, or gs://bucket/folder
    dst: tyro.conf.Positional[Path]
    source: Annotated[SourceOptions, Flat] = SourceOptions()
    tokenise: Annotated[TokeniseOptions, Flat] = TokeniseOptions()
    run: Annotated[RunOptions, Flat] = RunOptions()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, tokenise, say what was done."""
    prog = "python -m lumina_jax.data.pretokenize"
    options = parse_arguments(Options, arguments, prog=prog, description=__doc__)
    if options.run.distributed:
        import jax

        from lumina_jax.cluster.join import join_cluster

        if not jax.distributed.is_initialized():
            join_cluster("yes")
    else:
        from lumina_jax.compile_cache import keep_compiled_programs

        keep_compiled_programs()
    # not above: worker processes import this file too
    from lumina_jax.data.pretokenize.command import run

    print(run(options.src, options.dst, (options.source, options.tokenise, options.run)))
    sys.stdout.flush()


if __name__ == "__main__":
    run_main(main)
