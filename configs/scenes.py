"""The shipped model: captions to scenes at any size, weak to strong (64, 96, then 128 px squares' areas).

    python train.py configs/scenes.py --workdir runs/scenes --assets runs/scenes_vqgan/model

Two cores.
"""

from lumina_jax.config import (
    DataConfig,
    Experiment,
    LossConfig,
    OptimizerConfig,
    ScenesSource,
    Stage,
    TrainConfig,
)
from lumina_jax.model.presets import PRESETS


def get_config() -> Experiment:
    """Three areas, each with every aspect ratio up to 2:1."""
    sources = (
        ScenesSource("scenes_64", target_px=64, num_records=40_000, seed=1),
        ScenesSource("scenes_96", target_px=96, num_records=40_000, seed=2),
        ScenesSource("scenes_128", target_px=128, num_records=80_000, seed=3),
    )
    shared = {"batch_size": 32, "learning_rate": 3e-3}
    stages = (
        Stage(steps=1000, mixture=(("scenes_64", 1.0),), max_tokens=64, warmup_steps=50, **shared),
        Stage(steps=1500, mixture=(("scenes_96", 1.0),), max_tokens=96, **shared),
        Stage(
            steps=5000, mixture=(("scenes_128", 1.0),), max_tokens=128, final_ratio=0.05, **shared
        ),
    )
    train = TrainConfig(
        stages=stages,
        optimizer=OptimizerConfig("muon", weight_decay=0.01, clip_norm=1.0, ema_decay=0.999),
        loss=LossConfig(),
    )
    return Experiment("transformer", PRESETS["scenes"], DataConfig(sources), train)
