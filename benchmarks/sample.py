"""How fast does a checkpoint paint here? A row a batch: seconds an image, codes a second.

    PYTHONPATH=. python benchmarks/sample.py [--checkpoint scenes] [--batches 1 8 32]

Guided images of the trained square; the first call of each batch, which compiles, is left out.
"""

from dataclasses import dataclass
from time import perf_counter

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.lumina import Lumina


@dataclass(frozen=True)
class Options:
    """What to paint with, how many images at once, and how often."""

    checkpoint: str = "scenes"
    batches: tuple[int, ...] = (1, 8, 32)
    repeats: int = 3  # the fastest counts
    guidance: float = 3.0


def main() -> None:
    """Time every batch and print a table."""
    options = parse_arguments(Options, prog="benchmarks/sample.py", description=__doc__)
    model = Lumina.load(options.checkpoint)
    width_px, height_px = model.trained_size
    print("| size (px) | batch | s/image | codes/s |\n|---|---|---|---|")
    for batch in options.batches:
        prompts = ["a red dome to the left of a blue ring"] * batch
        seconds = []
        for repeat in range(options.repeats + 1):
            start = perf_counter()
            model.generate(prompts, seed=list(range(batch)), guidance=options.guidance)
            seconds += [perf_counter() - start] * (repeat > 0)
        codes = batch * (width_px * height_px) / model.config.grid.patch_px**2
        fastest = min(seconds)
        row = f"{fastest / batch:.3f} | {codes / fastest:.0f}"
        print(f"| {width_px}x{height_px} | {batch} | {row} |", flush=True)


if __name__ == "__main__":
    run_main(main)
