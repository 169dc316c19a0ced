"""Ablations that need no training, on one checkpoint: tables with 95 % intervals, and pictures.

python -m lumina_jax.evals.sweep scenes --parts settings decoders --out sweeps
python -m lumina_jax.evals.sweep scenes --out sweeps                       # all of them
python -m lumina_jax.evals.sweep scenes --parts guidance --others runs/without_dropout/model --out sweeps

Of every part the folder gets PART.json, written after each point, PART.md and PART.png; the same command goes on with
what is there. `docs/sweeps.md` tells what each part measures.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.evals.sweep.points import Amounts, Row, Sweep
from lumina_jax.evals.sweep.settings import Grid


@dataclass(frozen=True)
class Options:
    """What to measure, of what, and how much."""

    # a model's folder, "scenes", the shipped one, or a training checkpoint, WORKDIR/checkpoints/STEP
    checkpoint: tyro.conf.Positional[str]
    parts: tuple[Literal["settings", "guidance", "grammar", "decoders", "defects"], ...] = (
        "settings",
        "guidance",
        "grammar",
        "decoders",
        "defects",
    )
    others: tuple[str, ...] = ()  # of "guidance": checkpoints to set beside the first
    out: Path = Path("sweeps")  # a folder
    prompts_per_category: int = 50  # six categories
    # which prompts: those that choose settings, or those of the scores, of which nothing may then be chosen
    purpose: Literal["choose", "eval"] = "choose"
    grid: Grid = field(default_factory=Grid)  # of "settings"
    scales: tuple[float, ...] = (1.0, 1.5, 2.5, 4.0)  # of "guidance"; 1 is off
    amounts: Amounts = field(default_factory=Amounts)


class Part(NamedTuple):
    """A part of the command."""

    find: Callable[[Sweep, Options], list[Row]]
    figure: Callable[[Sequence[Row], Options], bytes]
    depends_on: tuple[
        str, ...
    ] = ()  # options that its points depend on, beside prompts and amounts


def main() -> None:
    """Measure every part, print its table, write table, picture and JSON."""
    from lumina_jax.evals.kept import load_scored
    from lumina_jax.image_files import check_folder

    options = parse_arguments(Options, prog="python -m lumina_jax.evals.sweep", description=__doc__)
    check(options)
    check_folder(options.out)
    model, *others = [load_scored(path) for path in (options.checkpoint, *options.others)]
    for name in options.parts:
        measure(name, options, model, tuple(others))


def check(options: Options) -> None:
    """ValueError of one line for options that leave nothing to measure, or of which one would be ignored."""
    if options.prompts_per_category < 2 or not options.parts:
        raise ValueError("nothing to measure: want a part and at least 2 prompts a category")
    if (
        min(options.amounts.timed_images, options.amounts.examples) < 1
        or options.amounts.rounds < 2
    ):
        raise ValueError(
            f"{options.amounts}: want at least 1 image to time, 2 rounds of timing and 1 example"
        )
    if options.others and "guidance" not in options.parts:
        raise ValueError("--others has no meaning without the part guidance: leave one of them out")


def measure(name: str, options: Options, model: Any, others: tuple[Any, ...] = ()) -> list[Row]:
    """One part: its rows, with its three files written."""
    from lumina_jax.evals.prompts import eval_prompts
    from lumina_jax.evals.report import heading
    from lumina_jax.evals.scores import CHOOSING_SEED
    from lumina_jax.evals.sweep.points import keeper
    from lumina_jax.evals.sweep.tables import table
    from lumina_jax.paths import write_bytes

    part, path = _parts()[name], options.out / name
    first_seed = CHOOSING_SEED if options.purpose == "choose" else 0
    prompts = tuple(eval_prompts(options.prompts_per_category, purpose=options.purpose))
    told = {
        **heading(model),
        "part": name,
        "purpose": options.purpose,
        "prompts": len(prompts),
        "seeds": [first_seed, first_seed + len(prompts) - 1],
        "amounts": asdict(options.amounts),
        **{key: asdict(options)[key] for key in part.depends_on},
        "checkpoints": [each.checkpoint for each in others if name == "guidance"],
    }
    keep = keeper(path.with_suffix(".json"), told)
    sweep = Sweep(model, prompts, first_seed, keep, options.amounts, others)
    rows = part.find(sweep, options)
    text = table(rows)
    write_bytes(path.with_suffix(".md"), (text + "\n").encode())
    write_bytes(path.with_suffix(".png"), part.figure(rows, options))
    print(f"{text}\n{path.with_suffix('.md')}\n", flush=True)
    return rows


def _parts() -> dict[str, Part]:
    from lumina_jax.evals.sweep import figure
    from lumina_jax.evals.sweep.decoders import sweep_decoders
    from lumina_jax.evals.sweep.defects.table import sweep_defects
    from lumina_jax.evals.sweep.grammar import sweep_grammar
    from lumina_jax.evals.sweep.guidance import sweep_guidance
    from lumina_jax.evals.sweep.settings import sweep_settings

    def intervals(rows: Sequence[Row], options: Options) -> bytes:
        return figure.intervals_plot(rows)

    return {
        "settings": Part(
            lambda sweep, options: sweep_settings(sweep, options.grid),
            lambda rows, options: figure.heat_maps(rows, options.grid),
            ("grid",),
        ),
        "guidance": Part(
            lambda sweep, options: sweep_guidance(sweep, options.scales), intervals, ("scales",)
        ),
        "grammar": Part(lambda sweep, options: sweep_grammar(sweep), intervals),
        "decoders": Part(lambda sweep, options: sweep_decoders(sweep), intervals),
        "defects": Part(
            lambda sweep, options: sweep_defects(sweep), lambda rows, options: figure.panels(rows)
        ),
    }


if __name__ == "__main__":
    run_main(main)
