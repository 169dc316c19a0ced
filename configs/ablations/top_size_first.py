"""The areas of the last stage from the first step, in place of the curriculum from weak to strong.

    python train.py configs/ablations/top_size_first.py --workdir runs/top --data-dir runs/ablations/data

Hardware: two CPU cores, ten minutes. Expected by the paper: a higher loss for the same compute.
Compute: 3,244,800 tokens (375 x 32 x 104 + 600 x 32 x 104). The rate falls over the same 600 steps as in full.py.
"""

from dataclasses import replace
from pathlib import Path

from lumina_jax.cli import load_run_file
from lumina_jax.experiment import Experiment

STEPS = 375  # at the constant rate: about as many tokens as the two stages that they replace


def get_config() -> Experiment:
    """Two stages with the mixture of the last."""
    full = load_run_file(Path(__file__).with_name("shared.py"))
    first, *_, last = full.train.stages
    first = replace(first, steps=STEPS, mixture=last.mixture, max_tokens=last.max_tokens)
    sources = tuple(source for source in full.data.sources if source.name != "small")
    data = replace(full.data, sources=sources)
    train = replace(full.train, stages=(first, last), eval_every=75)
    return replace(full, data=data, train=train)
