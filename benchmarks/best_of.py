"""Which likelihood picks the better of several images? A row a score: the share of held-out prompts painted as asked.

    PYTHONPATH=. python benchmarks/best_of.py [--checkpoint scenes] [--best-of 4] [--prompts-per-category 50]

Every prompt is painted `best_of` times; each score keeps one, and the detector judges it. The prompts are those that
choose the guidance, none of the evaluation's.
"""

from dataclasses import dataclass

import numpy as np

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.data.scenes.detector import detect
from lumina_jax.evals.intervals import wilson
from lumina_jax.evals.judge import judge
from lumina_jax.evals.prompts import eval_prompts
from lumina_jax.lumina import Lumina
from lumina_jax.painting import candidate_seeds
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import network_of, prepare
from lumina_jax.sampling.likelihood import likelihoods
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.tasks import text_to_image


@dataclass(frozen=True)
class Options:
    """What to paint with, and how much."""

    checkpoint: str = "scenes"
    best_of: int = 4
    prompts_per_category: int = 50  # six categories
    seed: int = 200_000  # prompt i starts from seed + i


def main() -> None:
    """Paint and judge all, then let every score choose."""
    options = parse_arguments(Options, prog="benchmarks/best_of.py", description=__doc__)
    model, count = Lumina.load(options.checkpoint), options.best_of
    prompts = eval_prompts(options.prompts_per_category, purpose="choose")
    asked = [
        (prompt, seed)
        for index, prompt in enumerate(prompts)
        for seed in candidate_seeds(options.seed + index, count)
    ]
    sizes = [(prompt.width_px, prompt.height_px) for prompt, _ in asked]
    seeds = [seed for _, seed in asked]
    images = model.generate([prompt.text for prompt, _ in asked], sizes, seeds)
    right = np.array(
        [judge(p, detect(image.pixels)) for (p, _), image in zip(asked, images, strict=True)]
    ).reshape(-1, count)
    requests = [
        Request(prompt_ids(text_to_image(*size, prompt.text), model.tokenizer), *size)
        for (prompt, _), size in zip(asked, sizes, strict=True)
    ]
    jobs = prepare(model.loaded, requests, model.settings)
    network, ids = network_of(model.loaded), [image.ids for image in images]
    prompted, alone = (likelihoods(network, jobs, ids, which) for which in (True, False))
    scores = {
        "the first": -(np.arange(right.size) % count),
        "log p(image given prompt)": prompted,
        "+ 0.5 log p(image)": prompted + 0.5 * alone,
        "- 0.5 log p(image)": prompted - 0.5 * alone,
        "- log p(image)": prompted - alone,
        "any is right": right.ravel(),
    }
    print("| kept by | share | interval |\n|---|---|---|")
    for name, score in scores.items():
        best = np.argmax(score.reshape(-1, count), axis=1)
        hits = int(right[np.arange(len(right)), best].sum())
        low, high = wilson(hits, len(right))
        print(f"| {name} | {hits / len(right):.3f} | {low:.3f} to {high:.3f} |", flush=True)
    print(f"\nall {right.size} images: {right.mean():.3f}")


if __name__ == "__main__":
    run_main(main)
