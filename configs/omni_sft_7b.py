r"""Omni-SFT of Lumina-mGPT-7B (arXiv 2408.02657, 2.3): every task into one model, from text-to-image at 768 px.

    python train.py configs/omni_sft_7b.py --workdir runs/omni_sft_7b --init checkpoints/lumina_7b_768 \
        --assets checkpoints/lumina_7b_768

`checkpoints/lumina_7b_768` is Lumina-mGPT-7B-768's release, converted, or the second stage of fp_sft_7b.py.

Records: conversations whose prompts are the templates of docs/tasks.md, one folder of shards a kind of data. The
paper's: editing (MagicBrush, SEED-Data-Edit; single and several turns), dense maps (normals of NYUv2 and ScanNet, depth
of Virtual KITTI 2 and Sintel, poses of COCO, OneFormer's segmentations of LAION, boxes of RefCOCO), painting from such
maps, sixteen views of one object, and a share of the text-to-image pairs, captions and plain text of before, against
forgetting. Segmentation is asked as the released model learnt it, "Segmentic segmentation. <|image|>": that is how the
methods of a model with the released tokenizer ask. Any corpus of docs/pretokenize.md with turns and images will do:

    python -m lumina_jax.data.pretokenize EDITS data/omni/editing --target-px 768 \
        --checkpoint checkpoints/lumina_7b_768 --max-tokens 9728

An edit in two turns holds three images of 768 px, 7,200 tokens; sixteen views of 384 px are 9,664. The shares are this
project's choice: the paper publishes none, nor steps.

Hardware: as fp_sft_7b.py, 32 accelerators of 80 GB. Memory and time are told by

    python -m lumina_jax.plan configs/omni_sft_7b.py --topology a100:4x8 --no-compile

Optimiser, losses and rate are the original's.
Expected: losses by task (`ce/task/...` in the log) fall within the first thousand steps; text-to-image stays as it was.
"""

from dataclasses import replace

from lumina_jax.config import SampleConfig
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

SHARES = {  # of bins, so about of tokens
    "text_to_image": 0.25,
    "editing": 0.25,
    "dense": 0.20,
    "conditions": 0.12,
    "views": 0.06,
    "understanding": 0.10,
    "text": 0.02,
}
LONGEST_RECORD = 9728  # tokens: sixteen views of 384 px are 9,664, and the prompt; bins are as long


def get_config() -> Experiment:
    """One stage at the original's constant rate."""
    sources = tuple(RecordSource(name, f"data/omni/{name}") for name in SHARES)
    held_out = RecordSource("held_out", "data/omni/held_out")
    stage = Stage(
        steps=20_000,
        batch_size=64,
        learning_rate=2e-5,  # [P]
        mixture=tuple(SHARES.items()),
        max_tokens=LONGEST_RECORD,
        layout="packed",
        warmup_steps=200,
        warmup_from=0.0,
    )
    base = PRESETS["7b"]
    transformer = replace(
        base.transformer, compute_dtype="bfloat16", scan_layers=True, remat="full"
    )
    train = TrainConfig(
        stages=(stage,),
        optimizer=OptimizerConfig("adamw"),
        loss=LossConfig(logits_chunk=4096),
        mesh=MeshConfig("fsdp", (("fsdp", -1),)),
        save_every=1000,
        keep_every=5000,
        eval_every=1000,
        eval_source=held_out.name,
    )
    model = replace(base, transformer=transformer, max_tokens=LONGEST_RECORD, target_px=768)
    data = DataConfig((*sources, held_out), too_long="skip")
    sample = SampleConfig(guidance=4.0, image_top_k=2000)
    return Experiment("transformer", model, data, train, sample, assets="checkpoints/lumina_7b_768")
