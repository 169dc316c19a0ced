"""Without the z-loss, which keeps the logits' normaliser near one.

    python train.py configs/ablations/without_z_loss.py --workdir runs/no_z --data-dir runs/ablations/data

Hardware: two CPU cores, ten minutes. Expected by the paper: logits that grow while it trains.
Compute: 3,251,200 tokens, those of full.py.
"""

from dataclasses import replace
from pathlib import Path

from lumina_jax.cli import load_run_file
from lumina_jax.experiment import Experiment


def get_config() -> Experiment:
    """Its weight is 0; the log still tells the mean squared normaliser, "z"."""
    full = load_run_file(Path(__file__).with_name("shared.py"))
    loss = replace(full.train.loss, z_loss=0.0)
    return replace(full, train=replace(full.train, loss=loss))
