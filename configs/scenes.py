"""The shipped model: captions to scenes at any size, weak to strong (96, 112, then 128 px squares' areas).

    python train.py configs/scenes.py --workdir runs/scenes --assets runs/scenes_vqgan/model

Hardware: two CPU cores (`--cpu-devices 2` uses both). Expected: the loss falls from 7.5 in every stage, the samples
show the objects that the prompt names.
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
    """Three areas, each at several shapes; the last stage keeps some of the area before it."""
    small = ((96, 96), (112, 80), (80, 112))
    middle = ((112, 112), (128, 96), (96, 128))
    large = ((128, 128), (160, 96), (96, 160), (144, 112), (112, 144))
    sources = (
        ScenesSource("scenes_96", 96, 4_096, seed=1, sizes=small),
        ScenesSource("scenes_112", 112, 4_096, seed=2, sizes=middle),
        ScenesSource("scenes_128", 128, 10_240, seed=3, sizes=large),
    )
    shared = {"batch_size": 32, "learning_rate": 3e-3}
    last = (("scenes_128", 0.75), ("scenes_112", 0.25))
    stages = (
        Stage(250, mixture=(("scenes_96", 1.0),), max_tokens=72, warmup_steps=50, **shared),
        Stage(250, mixture=(("scenes_112", 1.0),), max_tokens=88, **shared),
        Stage(1000, mixture=last, max_tokens=104, final_ratio=0.03, **shared),
    )
    train = TrainConfig(
        stages=stages,
        optimizer=OptimizerConfig("muon", weight_decay=0.01, clip_norm=1.0, ema_decay=0.99),
        loss=LossConfig(),
    )
    return Experiment("transformer", PRESETS["scenes"], DataConfig(sources), train)
