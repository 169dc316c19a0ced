"""Score a checkpoint on held-out prompts in GenEval's six categories, on every task, or its VQGAN alone.

python -m lumina_jax.evals scenes --choose-guidance --out scores.json
python -m lumina_jax.evals scenes --tasks all --out report.json --pictures pages
python -m lumina_jax.evals runs/omni/model --tasks question edit --num 50
python -m lumina_jax.evals runs/omni/model --tasks all --num 40 --choose-settings settings.json
python -m lumina_jax.evals runs/omni/model --against-checkpoint scenes --prompts-per-category 500
python -m lumina_jax.evals scenes --precision int8 --against float32 --prompts-per-category 500
python -m lumina_jax.evals runs/vqgan/model --vqgan

`docs/scoring.md` tells what the numbers mean.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from lumina_jax.cli import parse_arguments, run_main


@dataclass(frozen=True)
class Options:
    """What to score, and how to sample; settings that are not given are the checkpoint's and the tasks' own."""

    # a model's folder, "scenes", the shipped one, or a training checkpoint, WORKDIR/checkpoints/STEP
    checkpoint: tyro.conf.Positional[str]
    guidance: float | None = None
    temperature: float | None = None
    image_top_k: int | None = None
    text_top_k: int | None = None  # of answers in words; 1 is greedy
    # tasks of the protocol, rows of unirep.tasks.TASKS or "reconstruction", or "all"; without them the six
    # categories alone
    tasks: tuple[str, ...] = ()
    # with --tasks: examples of each, where it has kinds of each kind; with --choose-settings of all kinds together
    num: int = 100
    pictures: Path | None = None  # with --tasks: a folder for a page of pictures of each
    prompts_per_category: int = 100  # six categories; prompt i is painted once, with seed i
    seed: int = 0  # of the choice of prompts
    # shapes that the shipped model was never shown, gem and arch: prompts that each name one of them
    reserved: tuple[str, ...] = ()
    precision: str | None = None  # a row of model.precision.PRECISIONS; default: the model's own
    # a precision to paint the same prompts with, seed by seed, and to tell the loss against
    against: str | None = None
    # another model to paint the same prompts with, seed by seed, and to tell the loss against
    against_checkpoint: str | None = None
    choose_guidance: bool = False  # first find the best guidance, on other prompts
    # with --tasks: find the best settings of each, on other examples, and write them there for `lumina_jax.release`
    choose_settings: Path | None = None
    # a JSON file with the scores and every judgement; with --tasks a run that was cut off goes on with what is there
    out: Path | None = None
    vqgan: bool = False  # score the VQGAN alone: PSNR, and what the detector reads
    num_images: int = 300  # with --vqgan


SETTINGS = ("guidance", "temperature", "image_top_k", "text_top_k")  # fields of SampleConfig


def main() -> None:
    """Parse the command line, score, print a table, write the JSON."""
    options = parse_arguments(Options, prog="python -m lumina_jax.evals", description=__doc__)
    check(options)
    (score_vqgan if options.vqgan else score_protocol if options.tasks else score_model)(options)


def check(options: Options) -> None:
    """ValueError of one line for options that leave nothing to score, or of which one would be ignored."""
    if min(options.prompts_per_category, options.num_images, options.num) < 1:
        raise ValueError(
            "nothing to score: want at least 1 prompt a category, 1 example a task and 1 image"
        )
    default = Options("")
    of_categories = ("prompts_per_category", "seed", "reserved", "choose_guidance")
    of_categories += ("against", "against_checkpoint")
    of_tasks = ("num", "pictures", "choose_settings")
    unread = {
        "--vqgan": ("tasks", "precision", *of_tasks, *SETTINGS, *of_categories),
        "--choose-settings": ("num_images", "pictures", "out", *SETTINGS, *of_categories),
        "--tasks": ("num_images", *of_categories),
        "the six categories": ("text_top_k", "num_images", *of_tasks),
    }
    what = "--vqgan" if options.vqgan else "--tasks" if options.tasks else "the six categories"
    if options.tasks and options.choose_settings is not None and not options.vqgan:
        what = "--choose-settings"
    for name in unread[what]:
        if getattr(options, name) != getattr(default, name):
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} has no meaning for {what}: leave one of them out")
    if options.against is not None and options.against_checkpoint is not None:
        raise ValueError("--against and --against-checkpoint: want one comparison at a time")
    for path in (options.out, options.choose_settings):
        if path is not None:
            from lumina_jax.image_files import check_folder

            check_folder(path.parent)


def choose_for_tasks(options: Options, path: Path) -> None:
    """Try settings of the tasks, write what was tried and chosen."""
    from lumina_jax.evals.choosing import check_choosable, choose_settings
    from lumina_jax.evals.kept import load_scored
    from lumina_jax.evals.report import RECONSTRUCTION, chosen_tasks, read_report, write_report
    from lumina_jax.token_model import OWN_SETTINGS

    is_all, others = "all" in options.tasks, (RECONSTRUCTION, *OWN_SETTINGS)
    tasks = [t for t in chosen_tasks(options.tasks) if not (is_all and t in others)]
    check_choosable(tasks)
    earlier = read_report(path)
    model = load_scored(options.checkpoint, options.precision)
    save = partial(write_report, path)
    choose_settings(model, tasks, options.num, earlier=earlier, save=save)
    print(path)


def score_protocol(options: Options) -> None:
    """Answer and score the tasks' examples."""
    if options.choose_settings is not None:
        return choose_for_tasks(options, options.choose_settings)
    from lumina_jax.evals.kept import load_scored
    from lumina_jax.evals.report import chosen_tasks, read_report, score_tasks, write_report

    tasks, out = chosen_tasks(options.tasks), options.out
    earlier = read_report(out)
    model = load_scored(options.checkpoint, options.precision)
    score_tasks(
        model,
        tasks,
        options.num,
        pictures=options.pictures,
        earlier=earlier,
        save=None if out is None else partial(write_report, out),
        **_named_settings(options),
    )
    if out is not None:
        print(out)


def score_model(options: Options) -> None:
    """Paint and judge the prompts."""
    from lumina_jax.evals import scores
    from lumina_jax.evals.kept import load_scored
    from lumina_jax.evals.prompts import eval_prompts

    model = load_scored(options.checkpoint, options.precision)
    given, tried = _named_settings(options), None
    if options.choose_guidance:
        given["guidance"], tried = scores.choose_guidance(model)
        listed = ", ".join(f"{value:g}: {score:.3f}" for value, score in tried.items())
        print(f"guidance {given['guidance']:g} of {listed}")
    prompts = eval_prompts(options.prompts_per_category, options.seed, reserved=options.reserved)
    outcomes = scores.run(model, prompts, **given)
    paired = _compare(options, outcomes, given)
    settings = {**asdict(model.settings), **given, "guidances_tried": tried, **paired}
    settings["precision"] = options.precision
    found = scores.summary(outcomes)
    print(scores.table(found))
    if options.out is not None:
        scores.write_report(options.out, model, outcomes, settings)
        print(options.out)


def _compare(options: Options, outcomes: list, given: dict[str, Any]) -> dict[str, Any]:
    """The loss against another precision or checkpoint, painted with the same prompts, seeds and named settings."""
    from lumina_jax.evals import scores
    from lumina_jax.evals.kept import load_scored
    from lumina_jax.evals.paired import line, paired_loss

    if options.against is None and options.against_checkpoint is None:
        return {"against": None, "paired": None}
    precision = options.precision if options.against is None else options.against
    other = load_scored(options.against_checkpoint or options.checkpoint, precision)
    prompts = [outcome.prompt for outcome in outcomes]
    paired = paired_loss(scores.run(other, prompts, **given), outcomes)
    ours, theirs = (
        (options.precision or "own precision", options.against)
        if options.against
        else (options.checkpoint, options.against_checkpoint)
    )
    print(f"{ours} against {theirs}: {line(paired)}")
    return {
        "against": options.against,
        "against_checkpoint": other.checkpoint,
        "against_settings": {**asdict(other.settings), **given},
        "paired": paired,
    }


def _named_settings(options: Options) -> dict[str, Any]:
    """The settings of the command line."""
    named = {name: getattr(options, name) for name in SETTINGS}
    return {name: value for name, value in named.items() if value is not None}


def score_vqgan(options: Options) -> None:
    """Encode and decode held-out pictures."""
    from lumina_jax.checkpoint import digest, load_model, write_json
    from lumina_jax.evals import reconstruction
    from lumina_jax.evals.report import run_heading

    model = load_model(options.checkpoint, parts=("vqgan",))
    round_trip = reconstruction.vqgan_round_trip(model.params["vqgan"], model.config.vqgan)
    found = reconstruction.reconstruction_scores(round_trip, options.num_images)
    print(reconstruction.table(found))
    if options.out is not None:
        write_json(options.out, {**run_heading(digest(options.checkpoint)), **found})
        print(options.out)


if __name__ == "__main__":
    run_main(main)
