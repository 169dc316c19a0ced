"""The omni model: the text-to-image model of scenes.py, trained on with every other task beside painting.

    python train.py configs/omni_scenes.py --workdir runs/omni_scenes --init runs/scenes/model --cpu-devices 2

One model paints, edits, draws maps and skeletons, finds, turns, answers and describes (docs/tasks.md). A batch is
of one kind of conversation, and of one of four lengths.

Hardware: two CPU cores; ten minutes to draw and tokenise 128,000 conversations, 75 to train while other work ran on the
cores. Expected: new tasks start at 5 to 15 nats a token, fall to 2 within 150 steps and to 0.5 to 1.2 at the end;
painting rises from 0.69 to 0.85 and comes back to 0.70. `python -m lumina_jax.evals runs/omni_scenes/model --tasks all`
scores it; `omni_longer.py` goes on from it.
"""

from lumina_jax.config import SampleConfig
from lumina_jax.data_config import DataConfig, ScenesSource
from lumina_jax.experiment import Experiment, OptimizerConfig, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS

SIZES = ((128, 128), (160, 96), (96, 160), (144, 112), (112, 144), (128, 96), (96, 128))
DENSE = (("segmentation", 0.3), ("depth", 0.25), ("normals", 0.25), ("detection", 0.2))
WORDS = (("question", 0.65), ("describe", 0.35))
MIXTURE = (  # shares of batches
    ("painting", 0.36),
    ("words", 0.14),
    ("dense", 0.19),
    ("poses", 0.05),
    ("edits", 0.11),
    ("conditions", 0.06),
    ("chats", 0.06),
    ("views", 0.03),
)
BUCKETS = (104, 160, 256, 336)


def get_config() -> Experiment:
    """A constant rate, then a falling one."""
    sources = (
        ScenesSource("painting", 128, 49_152, seed=31, sizes=SIZES),
        ScenesSource("words", 128, 16_384, seed=32, sizes=SIZES, tasks=WORDS),
        ScenesSource("dense", 128, 24_576, seed=33, sizes=SIZES, tasks=DENSE),
        ScenesSource(
            "poses", 128, 6_144, seed=34, sizes=SIZES, shows="figure", tasks=(("pose", 1.0),)
        ),
        ScenesSource("edits", 128, 12_288, seed=35, sizes=SIZES, tasks=(("edit", 1.0),)),
        ScenesSource(
            "conditions", 128, 8_192, seed=36, sizes=SIZES, tasks=(("image_condition", 1.0),)
        ),
        ScenesSource("chats", 128, 8_192, seed=37, sizes=SIZES, tasks=(("chat", 1.0),)),
        ScenesSource("views", 128, 3_072, seed=38, sizes=SIZES, tasks=(("multi_view", 1.0),)),
    )
    shared = {
        "batch_size": 32,
        "learning_rate": 4e-3,
        "mixture": MIXTURE,
        "layout": "buckets",
        "buckets": BUCKETS,
        "max_tokens": BUCKETS[-1],
    }
    train = TrainConfig(
        stages=(Stage(1800, warmup_steps=50, **shared), Stage(1400, final_ratio=0.02, **shared)),
        optimizer=OptimizerConfig(
            "muon", weight_decay=0.01, clip_norm=1.0, adam_ratio=0.5, ema_decay=0.99
        ),
        save_every=250,
        keep_every=400,
        eval_every=0,
    )
    sample = SampleConfig(guidance=2.5)  # of painting from words
    return Experiment("transformer", PRESETS["scenes"], DataConfig(sources), train, sample)
