"""A model that paints, in half an hour from nothing: weak to strong over three areas, with the shipped image tokenizer.

    python train.py configs/scenes_quick.py --workdir runs/scenes_quick --cpu-devices 2

Hardware: two CPU cores, half an hour: 1.6 minutes to tokenise, 25 to train. Expected: a loss of 3.9 after 100 steps,
1.0 after 1,000 and 0.7 at the end; `python -m lumina_jax.evals runs/scenes_quick/model --guidance 1.5` gives 0.48.
"""

from lumina_jax.data_config import DataConfig, ScenesSource
from lumina_jax.experiment import Experiment, OptimizerConfig, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS


def get_config() -> Experiment:
    """Areas of 96, 112, then 128 px squares, each at several shapes; the last keeps some of the area before it."""
    small = ((96, 96), (112, 80), (80, 112))
    middle = ((112, 112), (128, 96), (96, 128))
    large = ((128, 128), (160, 96), (96, 160), (144, 112), (112, 144))
    sources = (
        ScenesSource("scenes_96", 96, 12_288, seed=1, sizes=small),
        ScenesSource("scenes_112", 112, 8_192, seed=2, sizes=middle),
        ScenesSource("scenes_128", 128, 20_480, seed=3, sizes=large),
    )
    shared = {"batch_size": 32, "learning_rate": 6e-3}
    last = (("scenes_128", 0.7), ("scenes_112", 0.3))
    stages = (
        Stage(400, mixture=(("scenes_96", 1.0),), max_tokens=72, warmup_steps=50, **shared),
        Stage(300, mixture=(("scenes_112", 1.0),), max_tokens=88, **shared),
        Stage(2100, mixture=last, max_tokens=104, final_ratio=0.02, **shared),
    )
    train = TrainConfig(
        stages=stages,
        optimizer=OptimizerConfig(
            "muon", weight_decay=0.01, clip_norm=1.0, adam_ratio=0.5, ema_decay=0.99
        ),
        codebook_tables=True,
        save_every=200,
        eval_every=700,
    )
    return Experiment("transformer", PRESETS["scenes"], DataConfig(sources), train)
