"""Without the height, width and end-of-line tokens (the layout "plain"): only the words of the prompt tell a size.

    python train.py configs/ablations/without_size_tokens.py --workdir runs/plain --data-dir runs/ablations/data

Hardware: two CPU cores, ten minutes. Expected by the paper: shapes that are rarely seen come out wrong.
Compute: 3,249,536 tokens (333 x 32 x 64 + 222 x 32 x 79 + 667 x 32 x 94). Images take fewer tokens, so it sees more.
"""

from dataclasses import replace
from pathlib import Path

from lumina_jax.cli import load_run_file
from lumina_jax.experiment import Experiment

ROWS = ((333, 64), (222, 79), (667, 94))  # steps and tokens of each stage


def get_config() -> Experiment:
    """The other layout; shorter sequences and as many more steps."""
    full = load_run_file(Path(__file__).with_name("shared.py"))
    stages = tuple(
        replace(stage, steps=steps, max_tokens=max_tokens)
        for stage, (steps, max_tokens) in zip(full.train.stages, ROWS, strict=True)
    )
    train = replace(full.train, stages=stages, eval_every=94)
    return replace(full, model=replace(full.model, image_layout="plain"), train=train)
