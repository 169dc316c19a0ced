r"""Flexible progressive fine-tuning of Chameleon-7B (arXiv 2408.02657, 2.2): 512, 768, then 1024 px areas.

    python train.py configs/fp_sft_7b.py --workdir runs/fp_sft_7b --init checkpoints/chameleon_7b \
        --assets checkpoints/chameleon_7b --distributed

Records: pre-tokenised image-text pairs under data/, one folder of ArrayRecord shards an area, every image at the
allowed crop nearest to its own shape, packed by `lumina_jax.data.records` and written by `lumina_jax.data.shards`.
`checkpoints/chameleon_7b` is Meta's release: `python -m lumina_jax.convert models/7b checkpoints/chameleon_7b`.

Rows are bins of whole records. Pairs of photographs with captions of 70 tokens have 1134, 2360 and 4138 tokens in the
mean: bins of 4608, 9600 and 8320 tokens hold 4, 4 and 2 of them and are 98 % full. 64, 64 and 128 bins are the
original's 256 records a step: 0.3, 0.6 and 1.06 million tokens. Records of other lengths want other bins; the start
of a run says how full they are, and which would be fuller.

Hardware: 64 accelerators of 80 GB; the mesh takes every device. Attention with segments holds 27 to 36 GB a bin while a
layer is recomputed (compiled for a CPU, a projection), so a device has room for two bins at a time; that of a padded
run has no such need. The paper's run took 32 A100 for seven days on 10M pairs. Optimiser, losses, dropout, batch and
rate are the original's; how long its stages were is not published, the steps here are one pass over 10M pairs shared
out 2:1:1.
Expected: the first stage's loss falls within hours, and each later stage starts higher and falls faster.
"""

from dataclasses import replace

from lumina_jax.experiment import (
    DataConfig,
    Experiment,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    RecordSource,
    Stage,
    TrainConfig,
)
from lumina_jax.model.presets import PRESETS

RECORDS = 256  # a step: 32 GPUs of 8 [L]
STEPS_PER_PASS = 10_000_000 // RECORDS  # 10M pairs [P]
MAX_TOKENS = {512: 4608, 768: 9600, 1024: 8320}  # of a bin
IN_A_BIN = {512: 4, 768: 4, 1024: 2}  # records
LONGEST_RECORD = 4608  # tokens: the longest image of 1024 (4228) and its caption; positions restart in every record


def get_config() -> Experiment:
    """Three stages, each from the last one's weights, warmed up, then at a constant rate."""
    sources = tuple(RecordSource(f"pairs_{px}", f"data/pairs_{px}") for px in MAX_TOKENS)
    shares = {512: 2, 768: 1, 1024: 1}
    stages = tuple(
        Stage(
            steps=STEPS_PER_PASS * shares[px] // 4,
            batch_size=RECORDS // IN_A_BIN[px],
            learning_rate=2e-5,  # [P]
            mixture=((f"pairs_{px}", 1.0),),
            max_tokens=max_tokens,
            layout="packed",
            warmup_steps=STEPS_PER_PASS // 100,  # 0.01 epoch [L]
            warmup_from=0.0,  # every area is a run of its own [L]
        )
        for px, max_tokens in MAX_TOKENS.items()
    )
    base = PRESETS["7b"]
    transformer = replace(
        base.transformer, compute_dtype="bfloat16", scan_layers=True, remat="full"
    )
    train = TrainConfig(
        stages=stages,
        optimizer=OptimizerConfig("adamw"),  # betas 0.9, 0.95, weight decay 0.1, clip 4 [P, L]
        loss=LossConfig(logits_chunk=512),
        mesh=MeshConfig("fsdp", (("fsdp", -1),)),
        zero_code_logits=True,  # [L]
        save_every=1000,  # [L]
        eval_every=0,
    )
    model = replace(base, transformer=transformer, max_tokens=LONGEST_RECORD, target_px=1024)
    return Experiment(
        "transformer", model, DataConfig(sources), train, assets="checkpoints/chameleon_7b"
    )
