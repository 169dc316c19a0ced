"""A first run in a few minutes: the shipped model's recipe, shortened, with the shipped image tokenizer.

    python train.py configs/scenes_quick.py --workdir runs/scenes_quick

Hardware: two cores. Expected: the loss falls from 7 to about 3; the samples show coloured blobs on a plain ground.
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
    """Two short stages at 64 and 96 px."""
    sources = (
        ScenesSource("quick_64", target_px=64, num_records=2_000, seed=11),
        ScenesSource("quick_96", target_px=96, num_records=2_000, seed=12),
    )
    shared = {"batch_size": 16, "learning_rate": 3e-3}
    stages = (
        Stage(steps=120, mixture=(("quick_64", 1.0),), max_tokens=56, warmup_steps=20, **shared),
        Stage(steps=120, mixture=(("quick_96", 1.0),), max_tokens=80, final_ratio=0.05, **shared),
    )
    train = TrainConfig(
        stages=stages,
        optimizer=OptimizerConfig("muon", weight_decay=0.01, clip_norm=1.0, ema_decay=0.98),
        log_every=10,
        save_every=60,
        eval_every=120,
    )
    return Experiment("transformer", PRESETS["scenes"], DataConfig(sources), train)
