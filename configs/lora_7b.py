r"""Low-rank adapters beside a released 7B, on one accelerator of 80 GB (Hu et al., arXiv 2106.09685).

    python train.py configs/lora_7b.py --workdir runs/lora_7b --init checkpoints/lumina_7b_512 \
        --assets checkpoints/lumina_7b_512

`checkpoints/lumina_7b_512` is Lumina-mGPT's release: `python -m lumina_jax.convert SRC checkpoints/lumina_7b_512`.
Meta's own Chameleon will not do: its head is kept from image codes, and adapters leave the head as it is.
Records: pre-tokenised image-text pairs. SRC is any corpus of docs/pretokenize.md:

    python -m lumina_jax.data.pretokenize SRC data/pairs_512 --target-px 512 --checkpoint checkpoints/lumina_7b_512 \
        --max-tokens 1536

Results: `runs/lora_7b/model`, merged, and `runs/lora_7b/adapter`, which PEFT reads.

Hardware: one accelerator of 80 GB. A projection, counted and not measured, in GB:

    base, 7.013 billion weights in bfloat16                                          14.0
    adapters, 40.0 million (rank 16, all seven matrices), float32, with gradient,
    two moments of AdamW, and the sum of the micro-batches                            0.8
    inputs of 32 layers kept for going back: 4 rows x 1536 tokens x 4096, bfloat16    1.6
    one layer recomputed: 4 x 1536 x about 100,000 numbers, half of them float32      1.9
    logits of a chunk and their gradient: 4 x 1536 x 4096, float32, three times       0.3
    together while training                                                            19
    while a model is saved: the merged weights, and again layer by layer             + 28

Time (a projection, not measured): at 40 % of an H100's bfloat16 rate, recomputation counted, 2,000 steps of 16 x 1536
tokens take about an hour and a half.
Expected: the loss falls within the first hundred steps; image tokens dominate it, see ce_image and ce_text.
"""

from dataclasses import replace

from lumina_jax.data_config import DataConfig, RecordSource
from lumina_jax.experiment import (
    Experiment,
    LoraConfig,
    LossConfig,
    OptimizerConfig,
    Stage,
    TrainConfig,
)
from lumina_jax.model.presets import PRESETS

MAX_TOKENS = 1536  # the longest image of the 512 px area, 1092, and its caption


def get_config() -> Experiment:
    """One stage at ten times the rate of training all weights, as is usual for adapters, then falling."""
    stage = Stage(
        steps=2000,
        batch_size=16,
        learning_rate=2e-4,
        mixture=(("pairs_512", 1.0),),
        max_tokens=MAX_TOKENS,
        warmup_steps=50,
        final_ratio=0.1,
    )
    train = TrainConfig(
        stages=(stage,),
        optimizer=OptimizerConfig("adamw", weight_decay=0.0),
        loss=LossConfig(logits_chunk=4096),
        accumulation=4,
        lora=LoraConfig(rank=16, alpha=32.0),
        save_every=500,
        eval_every=0,
    )
    base = PRESETS["7b"]
    transformer = replace(
        base.transformer,
        param_dtype="bfloat16",  # of the base; adapters are float32
        compute_dtype="bfloat16",
        scan_layers=True,
        remat="full",
    )
    model = replace(base, transformer=transformer, max_tokens=MAX_TOKENS, target_px=512)
    data = DataConfig((RecordSource("pairs_512", "data/pairs_512"),))
    return Experiment("transformer", model, data, train, assets="checkpoints/lumina_7b_512")
