"""The shipped model's image tokenizer: scenes and their answer images to 1024 codes, 16 px a code.

    python train.py configs/scenes_vqgan.py --workdir runs/scenes_vqgan

Hardware: one CPU core, half an hour. Expected: 28.8 dB on renders after 2,000 steps, 30.8 after 5,000 and 32 at the
end, with answer images 2 dB below; from step 3,000 on the detector reads the objects as in the originals.
"""

from lumina_jax.data_config import DataConfig, ScenesSource
from lumina_jax.experiment import Experiment, OptimizerConfig, Stage, TrainConfig, VQGANLossConfig
from lumina_jax.model.presets import PRESETS


def get_config() -> Experiment:
    """Random 96 px crops and whole images of the smallest area; then twice the batch, the learning rate falling."""
    shared = {"seed": 1_000_000, "reserved": True, "answers": 0.35}
    sources = (
        ScenesSource("crops", 128, 16_384, sizes=((128, 128),), crop_px=96, **shared),
        ScenesSource("images_96", 96, 4_096, sizes=((96, 96),), **shared),
    )
    mixture = (("crops", 0.7), ("images_96", 0.3))
    train = TrainConfig(
        stages=(
            Stage(5000, 8, 5e-3, mixture, warmup_steps=50),
            Stage(2500, 16, 5e-3, mixture, final_ratio=0.02),
        ),
        optimizer=OptimizerConfig("muon", weight_decay=0.0, clip_norm=1.0, ema_decay=0.995),
        vqgan_loss=VQGANLossConfig(l2=4.0),  # half of the errors are outlines of answer images
        log_every=50,
        save_every=1000,
        eval_every=1000,
    )
    return Experiment("vqgan", PRESETS["scenes"], DataConfig(sources), train)
