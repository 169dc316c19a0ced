"""Score a checkpoint on held-out prompts in GenEval's six categories, or its VQGAN on held-out pictures.

python -m lumina_jax.evals scenes --choose-guidance --out scores.json
python -m lumina_jax.evals scenes --precision int8 --against float32 --prompts-per-category 500
python -m lumina_jax.evals runs/vqgan/model --vqgan
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from lumina_jax.cli import parse_arguments, run_main


@dataclass(frozen=True)
class Options:
    """What to score, and how to sample; settings that are not given are the checkpoint's own."""

    checkpoint: tyro.conf.Positional[str]  # a folder, or "scenes", the shipped model
    guidance: float | None = None
    temperature: float | None = None
    image_top_k: int | None = None
    prompts_per_category: int = 100  # six categories; prompt i is painted once, with seed i
    seed: int = 0  # of the choice of prompts
    # shapes that the shipped model was never shown, gem and arch: prompts that each name one of them
    reserved: tuple[str, ...] = ()
    precision: str | None = None  # a row of model.precision.PRECISIONS; default: the model's own
    # a precision to paint the same prompts with, seed by seed, and to tell the loss against
    against: str | None = None
    choose_guidance: bool = False  # first find the best guidance, on other prompts
    out: Path | None = None  # a JSON file with the scores and every judgement
    vqgan: bool = False  # score the VQGAN alone: PSNR, and what the detector reads
    num_images: int = 300  # with --vqgan


def main() -> None:
    """Parse the command line, score, print a table, write the JSON."""
    options = parse_arguments(Options, prog="python -m lumina_jax.evals", description=__doc__)
    if options.prompts_per_category < 1 or options.num_images < 1:
        raise ValueError("nothing to score: want at least 1 prompt a category and 1 image")
    if options.out is not None:
        from lumina_jax.image_files import check_folder

        check_folder(options.out.parent)
    (score_vqgan if options.vqgan else score_model)(options)


def score_model(options: Options) -> None:
    """Paint and judge the prompts."""
    from lumina_jax.evals import scores
    from lumina_jax.evals.paired import line, paired_loss
    from lumina_jax.evals.prompts import eval_prompts
    from lumina_jax.lumina import Lumina

    model = Lumina.load(options.checkpoint, precision=options.precision)
    guidance, tried = options.guidance, None
    if options.choose_guidance:
        guidance, tried = scores.choose_guidance(model)
        listed = ", ".join(f"{value:g}: {score:.3f}" for value, score in tried.items())
        print(f"guidance {guidance:g} of {listed}")
    given = {
        "guidance": guidance,
        "temperature": options.temperature,
        "image_top_k": options.image_top_k,
    }
    prompts = eval_prompts(options.prompts_per_category, options.seed, reserved=options.reserved)
    outcomes = scores.run(model, prompts, **given)
    paired = None
    if options.against is not None:
        other = Lumina.load(options.checkpoint, precision=options.against)
        paired = paired_loss(scores.run(other, prompts, **given), outcomes)
        print(f"{options.precision or 'own precision'} against {options.against}: {line(paired)}")
    named = {name: value for name, value in given.items() if value is not None}
    settings = {**asdict(model.settings), **named, "guidances_tried": tried}
    settings |= {"precision": options.precision, "against": options.against, "paired": paired}
    found = scores.summary(outcomes)
    print(scores.table(found))
    if options.out is not None:
        scores.write_report(options.out, model, outcomes, settings)
        print(options.out)


def score_vqgan(options: Options) -> None:
    """Encode and decode held-out pictures."""
    from lumina_jax.checkpoint import digest, load_model, write_json
    from lumina_jax.evals import reconstruction

    model = load_model(options.checkpoint, parts=("vqgan",))
    round_trip = reconstruction.vqgan_round_trip(model.params["vqgan"], model.config.vqgan)
    found = reconstruction.reconstruction_scores(round_trip, options.num_images)
    print(reconstruction.table(found))
    if options.out is not None:
        write_json(options.out, {**found, "checkpoint": digest(options.checkpoint)})
        print(options.out)


if __name__ == "__main__":
    run_main(main)
