"""The shipped model's image tokenizer: scenes and their answer images to 1024 codes, 16 px a code.

    python train.py configs/scenes_vqgan.py --workdir runs/scenes_vqgan

Hardware: two CPU cores (`--cpu-devices 2` uses both). Expected: reconstructions in which every object keeps its shape
and colour.
"""

from lumina_jax.config import (
    DataConfig,
    Experiment,
    OptimizerConfig,
    ScenesSource,
    Stage,
    TrainConfig,
)
from lumina_jax.model.presets import PRESETS


def get_config() -> Experiment:
    """Random 96 px crops, then also whole images of the smallest area, with the learning rate falling."""
    shared = {"seed": 1_000_000, "reserved": True, "answers": 0.3}
    sources = (
        ScenesSource("crops", 128, 16_384, sizes=((128, 128),), crop_px=96, **shared),
        ScenesSource("images_96", 96, 4_096, sizes=((96, 96),), **shared),
    )
    both = (("crops", 0.7), ("images_96", 0.3))
    train = TrainConfig(
        stages=(
            Stage(4000, 8, 2.5e-3, mixture=(("crops", 1.0),), warmup_steps=50),
            Stage(1500, 8, 2.5e-3, mixture=both, final_ratio=0.02),
        ),
        optimizer=OptimizerConfig("muon", weight_decay=0.0, clip_norm=1.0, ema_decay=0.995),
        log_every=50,
        save_every=1000,
        eval_every=1000,
    )
    return Experiment("vqgan", PRESETS["scenes"], DataConfig(sources), train)
