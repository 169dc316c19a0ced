"""The full recipe, which every other arm of the ablations is compared with.

    python train.py configs/ablations/full.py --workdir runs/full --data-dir runs/ablations/data --cpu-devices 2

Hardware: two CPU cores, ten minutes. Expected: a score a little below that of configs/scenes_quick.py.
Compute: 3,251,200 tokens (300 x 32 x 72 + 200 x 32 x 88 + 600 x 32 x 104).
"""

from pathlib import Path

from lumina_jax.cli import load_run_file
from lumina_jax.experiment import Experiment


def get_config() -> Experiment:
    """Size tokens, curriculum, z-loss and context dropout."""
    return load_run_file(Path(__file__).with_name("shared.py"))
