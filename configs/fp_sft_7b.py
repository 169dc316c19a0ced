r"""Flexible progressive fine-tuning of Chameleon-7B (arXiv 2408.02657, 2.2): 512, 768, then 1024 px areas.

    python train.py configs/fp_sft_7b.py --workdir runs/fp_sft_7b --init checkpoints/chameleon_7b \
        --assets checkpoints/chameleon_7b

`checkpoints/chameleon_7b` is Meta's release, told that its images are to be of any shape:

    python -m lumina_jax.convert models/7b checkpoints/chameleon_7b --image-layout uni_rep

Records: pre-tokenised image-text pairs, one folder of shards an area, every image at the allowed crop nearest to its
own shape. SRC is any corpus of docs/pretokenize.md; the same for 768 and 1024:

    python -m lumina_jax.data.pretokenize SRC data/pairs_512 --target-px 512 --checkpoint checkpoints/chameleon_7b \
        --random-crop --max-tokens 4608

Held out: some 1,100 pairs that are in no other folder, at all three areas, so that every area's loss is logged alone:

    python -m lumina_jax.data.pretokenize HELD_OUT_SRC data/held_out --target-px 512 768 1024 \
        --checkpoint checkpoints/chameleon_7b --max-tokens 4608

Rows are bins of whole records. Pairs of photographs with captions of 70 tokens have 1134, 2360 and 4138 tokens in the
mean: bins of 4608, 9600 and 8320 tokens hold 4, 4 and 2 of them and are 98 % full. 64, 64 and 128 bins are the
original's 256 records a step: 0.3, 0.6 and 1.06 million tokens. Records of other lengths want other bins; the start
of a run says how full they are, and which would be fuller.

Hardware: 32 accelerators of 80 GB, as many as the paper's; the mesh takes every device, and rows have to divide over
them. What a machine has room for, how long it takes and what it sends is told by `lumina_jax.plan` (docs/planning.md);
docs/benchmarks.md has plans and projections of this file:

    python -m lumina_jax.plan configs/fp_sft_7b.py --topology a100:4x8 --no-compile

On more chips than a stage has rows raise its `batch-size`, or split its sequences: `--train.mesh.strategy fsdp_sequence
--train.mesh.axes fsdp 64 sequence 4`. On fewer, `--train.accumulation 4`. On several slices: `--train.mesh.strategy
data_fsdp --train.mesh.axes data 2 fsdp -1`.
Disk: a checkpoint has 84 GB; the last two are kept, and one of every 5,000 steps.

Optimiser, losses, dropout, batch, rate and warm-up are the original's; how long its stages were is not published, the
steps here are one pass over 10M pairs shared out 2:1:1.
Expected: the first stage's loss falls within hours, and each later stage starts higher and falls faster.
"""

from dataclasses import replace

from lumina_jax.data_config import DataConfig, RecordSource
from lumina_jax.experiment import (
    Experiment,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
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
    pairs = tuple(RecordSource(f"pairs_{px}", f"data/pairs_{px}") for px in MAX_TOKENS)
    held_out = RecordSource("held_out", "data/held_out")
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
        loss=LossConfig(logits_chunk=4096),
        mesh=MeshConfig("fsdp", (("fsdp", -1),)),
        zero_code_logits=True,  # [L]
        save_every=1000,  # [L]
        keep_every=5000,
        eval_every=1000,
        eval_source=held_out.name,
    )
    model = replace(base, transformer=transformer, max_tokens=LONGEST_RECORD, target_px=1024)
    data = DataConfig((*pairs, held_out))
    return Experiment("transformer", model, data, train, assets="checkpoints/chameleon_7b")
