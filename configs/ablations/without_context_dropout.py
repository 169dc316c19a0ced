"""Without dropped contexts: the model never sees an image without its prompt, which guidance takes for "nothing asked".

    python train.py configs/ablations/without_context_dropout.py --workdir runs/no_drop --data-dir runs/ablations/data

Hardware: two CPU cores, ten minutes. Expected by the paper: guidance helps less.
Compute: 3,251,200 tokens, those of full.py.
"""

from dataclasses import replace
from pathlib import Path

from lumina_jax.cli import load_run_file
from lumina_jax.experiment import Experiment


def get_config() -> Experiment:
    """Every record keeps its prompt."""
    full = load_run_file(Path(__file__).with_name("shared.py"))
    loss = replace(full.train.loss, context_dropout=0.0)
    return replace(full, train=replace(full.train, loss=loss))
