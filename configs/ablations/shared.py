"""What the arms of the ablations have in common: a model that paints, weak to strong over three areas, in ten minutes.

Not an arm itself: each file beside this one says what differs. See docs/ablations.md.

The sizes of the last stage are of three kinds: LARGE are seen often, RARE are 2 % of its records, other shapes of that
area are in no record at all. Arms spend equal compute: tokens, padding included (steps x sequences x tokens of every
stage), times weights, of which all have as many. Evaluations divide the steps of every arm: the last is at its end.
"""

from lumina_jax.data_config import DataConfig, ScenesSource
from lumina_jax.experiment import Experiment, OptimizerConfig, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS

SMALL = ((96, 96), (112, 80), (80, 112))
MIDDLE = ((112, 112), (128, 96), (96, 128))
LARGE = ((128, 128), (160, 96), (96, 160), (144, 112), (112, 144))
RARE = ((192, 80), (80, 192))
LAST = (("large", 0.7), ("middle", 0.28), ("rare", 0.02))  # shares of the records of the last stage
EACH = {"batch_size": 32, "learning_rate": 6e-3}  # of every stage


def get_config() -> Experiment:
    """The curriculum of configs/scenes_quick.py in two fifths of its steps, with a held-out loss."""
    sources = (
        ScenesSource("small", 96, 8_192, seed=61, sizes=SMALL),
        ScenesSource("middle", 112, 6_144, seed=62, sizes=MIDDLE),
        ScenesSource("large", 128, 16_384, seed=63, sizes=LARGE),
        ScenesSource("rare", 128, 512, seed=64, sizes=RARE),
        ScenesSource("held_out", 128, 256, seed=65, sizes=LARGE),
    )
    stages = (
        Stage(300, mixture=(("small", 1.0),), max_tokens=72, warmup_steps=50, **EACH),
        Stage(200, mixture=(("middle", 1.0),), max_tokens=88, **EACH),
        Stage(600, mixture=LAST, max_tokens=104, final_ratio=0.02, **EACH),
    )
    train = TrainConfig(
        stages=stages,
        optimizer=OptimizerConfig(
            "muon", weight_decay=0.01, clip_norm=1.0, adam_ratio=0.5, ema_decay=0.99
        ),
        codebook_tables=True,
        save_every=200,
        eval_every=100,
        eval_source="held_out",
    )
    return Experiment("transformer", PRESETS["scenes"], DataConfig(sources), train)
