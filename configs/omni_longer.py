"""The shipped model: the model of omni_scenes.py, trained on with more of what it was weakest at.

    python train.py configs/omni_longer.py --workdir runs/omni_longer --init runs/omni_scenes/model --cpu-devices 2

Other conversations than those of omni_scenes.py, of the same kinds. Maps, boxes and views get larger shares after 1,239
steps, when their losses had fallen least, and maps and boxes once more in a short last stage.

Hardware: two CPU cores; half an hour to draw and tokenise 244,000 conversations, 100 minutes to train beside other
work. Expected: detection falls from 1.2 nats a token to 0.8, maps from 0.75 to 0.43, answers from 0.41 to 0.16;
painting rises from 0.70 to 0.86 and comes back to 0.75. docs/benchmarks.md tells the scores.
"""

from lumina_jax.config import SampleConfig
from lumina_jax.data_config import DataConfig, ScenesSource
from lumina_jax.experiment import Experiment, OptimizerConfig, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS

SIZES = ((128, 128), (160, 96), (96, 160), (144, 112), (112, 144), (128, 96), (96, 128))
PAINTING = (("text_to_image", 0.9), ("text_to_image_any_size", 0.1))
DENSE = (("segmentation", 0.25), ("depth", 0.2), ("normals", 0.25), ("detection", 0.3))
WORDS = (("question", 0.7), ("describe", 0.3))
OTHERS = {  # name: records, tasks
    "painting": (65_536, PAINTING),
    "words": (40_960, WORDS),
    "dense": (65_536, DENSE),
    "edits": (32_768, (("edit", 1.0),)),
    "conditions": (16_384, (("image_condition", 1.0),)),
    "chats": (12_288, (("chat", 1.0),)),
    "views": (3_072, (("multi_view", 1.0),)),
}
SHARES = {  # of batches, as the run goes on
    "painting": (0.26, 0.22, 0.25),
    "words": (0.16, 0.14, 0.07),
    "dense": (0.25, 0.32, 0.47),
    "edits": (0.13, 0.12, 0.07),
    "conditions": (0.05, 0.05, 0.03),
    "chats": (0.05, 0.04, 0.03),
    "views": (0.03, 0.05, 0.05),
    "poses": (0.07, 0.06, 0.03),
}
BUCKETS = (104, 160, 256, 336)


def get_config() -> Experiment:
    """A constant rate, then a falling one, and a lower one that falls again."""
    sources = tuple(
        ScenesSource(name, 128, records, seed=51 + index, sizes=SIZES, tasks=tasks)
        for index, (name, (records, tasks)) in enumerate(OTHERS.items())
    )
    figures = {"seed": 60, "sizes": SIZES, "shows": "figure", "tasks": (("pose", 1.0),)}
    poses = ScenesSource("poses", 128, 16_384, **figures)
    shared = {
        "batch_size": 32,
        "learning_rate": 4e-3,
        "layout": "buckets",
        "buckets": BUCKETS,
        "max_tokens": BUCKETS[-1],
    }
    train = TrainConfig(
        stages=(
            Stage(1239, warmup_steps=100, mixture=_shares(0), **shared),
            Stage(1561, mixture=_shares(1), **shared),
            Stage(1500, mixture=_shares(1), final_ratio=0.02, **shared),
            Stage(600, mixture=_shares(2), final_ratio=0.02, **{**shared, "learning_rate": 1.5e-3}),
        ),
        optimizer=OptimizerConfig(
            "muon", weight_decay=0.01, clip_norm=1.0, adam_ratio=0.5, ema_decay=0.99
        ),
        save_every=250,
        keep_every=1500,
        eval_every=0,
    )
    sample = SampleConfig(guidance=2.5)  # of painting from words
    return Experiment(
        "transformer", PRESETS["scenes"], DataConfig((*sources, poses)), train, sample
    )


def _shares(column: int) -> tuple[tuple[str, float], ...]:
    return tuple((name, shares[column]) for name, shares in SHARES.items())
