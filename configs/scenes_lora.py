"""Fine-tuning with adapters: the shipped model learns the gem, a shape that was kept from it.

    python train.py configs/scenes_lora.py --workdir runs/scenes_lora --init scenes --cpu-devices 2

Half of the scenes show a gem, half only what the model knows, which keeps it from forgetting that.

Hardware: two CPU cores, seven minutes to train while other work ran on them, and two to tokenise. Expected: ce_image
falls to 1.08; of prompts that name a gem (`python -m lumina_jax.evals runs/scenes_lora/model --reserved gem`) 0.19 come
out as asked instead of none, of all others 0.52 instead of 0.55. More in docs/finetuning.md.
"""

from lumina_jax.config import SampleConfig
from lumina_jax.data_config import DataConfig, ScenesSource
from lumina_jax.experiment import Experiment, LoraConfig, OptimizerConfig, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS

SIZES = ((128, 128), (160, 96), (96, 160), (144, 112), (112, 144), (128, 96), (96, 128))


def get_config() -> Experiment:
    """One stage, half of it with a gem in every scene, the rate falling."""
    sources = (
        ScenesSource("gems", 128, 3_072, seed=21, sizes=SIZES, shows="gem"),
        ScenesSource("known", 128, 3_072, seed=22, sizes=SIZES),
    )
    stage = Stage(
        steps=300,
        batch_size=32,
        learning_rate=4e-3,
        mixture=(("gems", 0.5), ("known", 0.5)),
        max_tokens=104,
        warmup_steps=30,
        final_ratio=0.05,
    )
    train = TrainConfig(
        stages=(stage,),
        optimizer=OptimizerConfig("adamw", weight_decay=0.0, clip_norm=1.0, ema_decay=0.98),
        lora=LoraConfig(rank=16, alpha=16.0),
        save_every=100,
        eval_every=0,
    )
    sample = SampleConfig(guidance=2.0)  # the shipped model's
    return Experiment("transformer", PRESETS["scenes"], DataConfig(sources), train, sample)
