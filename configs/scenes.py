"""A model that paints, on which the shipped one is built: scenes_quick.py's, trained on at its two largest areas.

    python train.py configs/scenes_quick.py --workdir runs/scenes_quick --cpu-devices 2
    python train.py configs/scenes.py --workdir runs/scenes --init runs/scenes_quick/model --cpu-devices 2

Hardware: two CPU cores, twenty minutes more. Expected: the loss rises to 0.85 and falls to 0.68; the score of
`python -m lumina_jax.evals runs/scenes/model --guidance 2` goes from 0.48 to 0.52.
"""

from lumina_jax.data_config import DataConfig, ScenesSource
from lumina_jax.experiment import Experiment, OptimizerConfig, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS


def get_config() -> Experiment:
    """Fresh scenes at a constant rate, then with the rate falling."""
    middle = ((112, 112), (128, 96), (96, 128))
    large = ((128, 128), (160, 96), (96, 160), (144, 112), (112, 144))
    sources = (
        ScenesSource("scenes_112", 112, 16_384, seed=12, sizes=middle),
        ScenesSource("scenes_128", 128, 49_152, seed=13, sizes=large),
    )
    shared = {"batch_size": 32, "learning_rate": 4e-3, "max_tokens": 104}
    mixture = (("scenes_128", 0.75), ("scenes_112", 0.25))
    stages = (
        Stage(800, mixture=mixture, warmup_steps=50, **shared),
        Stage(900, mixture=mixture, final_ratio=0.02, **shared),
    )
    train = TrainConfig(
        stages=stages,
        optimizer=OptimizerConfig(
            "muon", weight_decay=0.01, clip_norm=1.0, adam_ratio=0.5, ema_decay=0.99
        ),
        save_every=250,
        eval_every=850,
    )
    return Experiment("transformer", PRESETS["scenes"], DataConfig(sources), train)
