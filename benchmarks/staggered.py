"""What does it cost to draw the rows of an image side by side? Scores and forward passes by lag, pair by pair.

    PYTHONPATH=. python benchmarks/staggered.py [--lags 1 2 4 9] [--prompts-per-category 100]

The same prompts with the same seeds, painted by the sequential decoder and by "staggered", judged and compared.
"""

from dataclasses import dataclass, replace

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.evals import scores
from lumina_jax.evals.paired import line, paired_loss
from lumina_jax.evals.prompts import eval_prompts
from lumina_jax.lumina import Lumina


@dataclass(frozen=True)
class Options:
    """What to paint with, and how much."""

    checkpoint: str = "scenes"
    lags: tuple[int, ...] = (1, 2, 3, 4, 6)
    prompts_per_category: int = 100


def main() -> None:
    """Score every lag and print a table."""
    options = parse_arguments(Options, prog="benchmarks/staggered.py", description=__doc__)
    model = Lumina.load(options.checkpoint)
    own, prompts = model.settings, eval_prompts(options.prompts_per_category)
    plain = scores.run(model, prompts)
    print(f"sequential: score {scores.summary(plain)['overall']['score']:.3f}\n")
    print("| lag | score | less than sequential |\n|---|---|---|")
    for lag in options.lags:
        model.settings = replace(own, decoder="staggered", lag=lag)
        drawn = scores.run(model, prompts)
        found = (
            f"{scores.summary(drawn)['overall']['score']:.3f} | {line(paired_loss(plain, drawn))}"
        )
        print(f"| {lag} | {found} |", flush=True)


if __name__ == "__main__":
    run_main(main)
