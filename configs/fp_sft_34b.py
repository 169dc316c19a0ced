r"""Flexible progressive fine-tuning of Chameleon-34B (arXiv 2408.02657, 2.2): fp_sft_7b.py without dropout.

    python train.py configs/fp_sft_34b.py --workdir runs/fp_sft_34b --init checkpoints/chameleon_34b \
        --assets checkpoints/chameleon_34b

Source: the paper trains its 34B as its 7B, but for the dropout, of which the code's tables give "30B" none. Released is
the 512 model alone, so the two later stages have nothing to be compared with. Records, bins and held-out pairs are
those of fp_sft_7b.py: both releases of Meta have one tokenizer and one VQGAN.

    python -m lumina_jax.convert models/30b checkpoints/chameleon_34b --image-layout uni_rep

Hardware: 64 accelerators of 80 GB, or 32 of 141 GB: masters, moments and gradients in float32 are 549 GB, split over
every device. Plans and projections: docs/benchmarks.md, and `python -m lumina_jax.plan` for machines that aren't there.
Disk: a checkpoint has 412 GB; the last two are kept, and one of every 5,000 steps.
Expected: as with the 7B, a loss that falls within hours in the first stage and starts higher in each later one.
"""

from dataclasses import replace
from pathlib import Path

from lumina_jax.cli import load_run_file
from lumina_jax.experiment import Experiment
from lumina_jax.model.presets import PRESETS


def get_config() -> Experiment:
    """The 7B's run with the 34B's sizes and norms; dropout is 0 in its preset [L]."""
    small = load_run_file(Path(__file__).with_name("fp_sft_7b.py"))
    base = PRESETS["34b"]
    transformer = replace(
        base.transformer, compute_dtype="bfloat16", scan_layers=True, remat="full"
    )
    model = replace(
        base,
        transformer=transformer,
        max_tokens=small.model.max_tokens,
        target_px=small.model.target_px,
    )
    return replace(small, model=model, assets="checkpoints/chameleon_34b")
