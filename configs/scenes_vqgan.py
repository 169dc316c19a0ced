"""The shipped model's image tokenizer: scenes and their answer images to 1024 codes, 16 px a code.

    python train.py configs/scenes_vqgan.py --workdir runs/scenes_vqgan

Two cores.
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
    """Random 96 px crops first, then whole images of every area, so that the global statistics fit."""
    shared = {"seed": 1_000_000, "reserved": True, "answers": 0.3}
    sources = (
        ScenesSource("crops", 128, 16_384, sizes=((128, 128),), crop_px=96, **shared),
        ScenesSource("images_128", 128, 12_288, sizes=((128, 128), (160, 96), (96, 160)), **shared),
        ScenesSource("images_112", 112, 6_144, sizes=((112, 112), (128, 96), (96, 128)), **shared),
        ScenesSource("images_96", 96, 4_096, sizes=((96, 96),), **shared),
    )
    whole = (("images_128", 0.6), ("images_112", 0.25), ("images_96", 0.15))
    train = TrainConfig(
        stages=(
            Stage(2400, 16, 3e-3, mixture=(("crops", 1.0),), warmup_steps=50),
            Stage(1200, 16, 2e-3, mixture=whole, final_ratio=0.02),
        ),
        optimizer=OptimizerConfig("muon", weight_decay=0.0, clip_norm=1.0, ema_decay=0.995),
        log_every=20,
        save_every=400,
        eval_every=400,
    )
    return Experiment("vqgan", PRESETS["scenes"], DataConfig(sources), train)
