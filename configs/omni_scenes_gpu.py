"""The omni model at four times the size, on one accelerator: painting first, weak to strong, then all tasks together.

    python train.py configs/omni_scenes_gpu.py --workdir runs/omni_scenes_gpu

Two parts of the paper in one curriculum: FP-SFT in the first three stages, Omni-SFT in the last two. The image
tokenizer is the shipped one. `runs/omni_scenes_gpu/model` has 6.9M weights, 14 MB in bfloat16 beside the VQGAN's two.

Hardware: one accelerator of 16 GB. It has not been run.
Expected: better than omni_scenes.py in every score of docs/scoring.md; it sees each task fifteen times as often.
"""

from dataclasses import replace

from lumina_jax.config import SampleConfig
from lumina_jax.data_config import DataConfig, ScenesSource
from lumina_jax.experiment import Experiment, OptimizerConfig, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS

SMALL = ((96, 96), (112, 80), (80, 112))
MIDDLE = ((112, 112), (128, 96), (96, 128))
LARGE = ((128, 128), (160, 96), (96, 160), (144, 112), (112, 144), (128, 96), (96, 128))
DENSE = (("segmentation", 0.3), ("depth", 0.25), ("normals", 0.25), ("detection", 0.2))
WORDS = (("question", 0.65), ("describe", 0.35))
OTHERS = {  # name: records, tasks, share of batches
    "words": (262_144, WORDS, 0.16),
    "dense": (196_608, DENSE, 0.18),
    "edits": (131_072, (("edit", 1.0),), 0.13),
    "conditions": (65_536, (("image_condition", 1.0),), 0.06),
    "chats": (65_536, (("chat", 1.0),), 0.06),
    "views": (16_384, (("multi_view", 1.0),), 0.03),
}
BUCKETS = (104, 160, 256, 336)


def get_config() -> Experiment:
    """Three areas of painting at a constant rate, then everything, the rate falling in the end."""
    painting = (
        ScenesSource("painting_96", 96, 65_536, seed=41, sizes=SMALL),
        ScenesSource("painting_112", 112, 65_536, seed=42, sizes=MIDDLE),
        ScenesSource("painting_128", 128, 524_288, seed=43, sizes=LARGE),
    )
    others = tuple(
        ScenesSource(name, 128, records, seed=44 + index, sizes=LARGE, tasks=tasks)
        for index, (name, (records, tasks, _)) in enumerate(OTHERS.items())
    )
    figures = {"seed": 50, "sizes": LARGE, "shows": "figure", "tasks": (("pose", 1.0),)}
    poses = ScenesSource("poses", 128, 49_152, **figures)
    shares = [(name, share) for name, (_, _, share) in OTHERS.items()]
    mixture = (("painting_128", 0.33), ("poses", 0.05), *shares)
    paint = {"batch_size": 256, "learning_rate": 4e-3}
    omni = {
        **paint,
        "mixture": mixture,
        "layout": "buckets",
        "buckets": BUCKETS,
        "max_tokens": BUCKETS[-1],
    }
    stages = (
        Stage(1000, mixture=(("painting_96", 1.0),), max_tokens=72, warmup_steps=100, **paint),
        Stage(1000, mixture=(("painting_112", 1.0),), max_tokens=88, **paint),
        Stage(4000, mixture=(("painting_128", 1.0),), max_tokens=104, **paint),
        Stage(8000, **omni),
        Stage(6000, final_ratio=0.02, **omni),
    )
    train = TrainConfig(
        stages=stages,
        optimizer=OptimizerConfig(
            "muon", weight_decay=0.01, clip_norm=1.0, adam_ratio=0.5, ema_decay=0.995
        ),
        codebook_tables=True,
        save_every=1000,
        keep_every=4000,
        eval_every=2000,
    )
    base = PRESETS["scenes"]
    larger = {"num_layers": 8, "width": 256, "num_heads": 8, "num_kv_heads": 8, "mlp_width": 704}
    transformer = replace(base.transformer, compute_dtype="bfloat16", **larger)
    model = replace(base, transformer=transformer)
    sample = SampleConfig(guidance=2.0)
    return Experiment("transformer", model, DataConfig((*painting, *others, poses)), train, sample)
