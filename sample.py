"""Paint images from prompts, or ask anything of pictures, with the shipped model unless another checkpoint is named.

    python sample.py --prompt "a red dome left of a blue ring" --size 128x96 --seed 1 --out dome.png
    python sample.py --prompt "a dome" --prompt "three rings" --out pictures/
    python sample.py --contact-sheet sheet.png
    python sample.py --prompt "a red dome" --outpaint upper.png --size 128x128
    python sample.py --prompt "a blue ring" --inpaint image.png --mask mask.png
    python sample.py --prompts prompts.jsonl --out pictures/ --resume
    python sample.py --task depth --image photo.png --out depth.png
    python sample.py --task edit --image photo.png --instruction "make the dome blue" --out blue.png
    python sample.py --task question --image photo.png --question "How many rings are there?"
    python sample.py --task chat

A prompt file has one JSON object a line, {"prompt": …, "size": …, "seed": …}; `serving/prompt_file.py` lists the keys.
Every PNG carries its prompt, seed and settings as metadata.
"""

import json
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.cluster.join import join_cluster
from lumina_jax.compile_cache import keep_compiled_programs
from lumina_jax.config import SampleConfig

if TYPE_CHECKING:
    from lumina_jax.generated_image import GeneratedImage
    from lumina_jax.lumina import Lumina


@dataclass(frozen=True)
class Options:
    """Paint images from prompts."""

    # repeat it for several images; with --task what that wants beside pictures, under whichever name
    prompt: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(aliases=["--caption", "--phrase", "--instruction", "--question"]),
    ] = ()
    task: str | None = None  # what to do with pictures or words; docs/tasks.md lists all
    image: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()  # a picture for --task
    views: int | None = None  # images of a multi_view answer; default: as the model was taught
    text_top_k: int | None = None  # tokens of text to draw among; 1 is greedy; default: the task's
    prompts: Path | None = (
        None  # a file of prompts, one JSON object a line, painted into the folder --out
    )
    resume: bool = False  # go on with the images of a prompt file that are not there yet
    batch: int | None = None  # images of a prompt file at once on each device
    distributed: bool = False  # share a prompt file with the other processes of a cluster
    size: str | None = None  # WIDTHxHEIGHT in px; default: the trained square
    seed: int = 0  # the same seed, prompt, size and settings paint the same image
    # how closely to follow the prompt; 1 is off; default: the model's own
    guidance: float | None = None
    # pull of the prompt's images alone, in a third stream (Chameleon: 1.2); default: the model's own
    image_guidance: float | None = None
    # in place of it, from the first row to the last, linear between: 4 2 falls from 4 to 2
    guidance_schedule: tuple[float, ...] | None = None
    negative_prompt: str | None = None  # what guidance moves away from
    top_k: int | None = None  # image codes to draw among; 1 is greedy; default: the model's own
    top_p: float | None = None  # share of their probability to draw from; default: the model's own
    min_p: float | None = None  # least probability of a code, in shares of the likeliest one's
    temperature: float | None = None  # default: the model's own
    # sequential; several codes a pass: jacobi (the same codes), coupled (the same law), staggered (lossy: another law)
    decoder: str | None = None
    window: int | None = None  # tokens a pass of jacobi and coupled; default: the model's own
    drafts: str | None = None  # their first guesses: above (the code above) or uniform
    branches: tuple[int, ...] | None = (
        None  # depths of second guesses beside their window: 1 1 1 2 2 3
    )
    lag: int | None = (
        None  # codes by which a row of staggered trails the one above; more is closer to the law
    )
    grammar: str | None = None  # exact: the asked size; original: as the original, unenforced
    best_of: int = 1  # paint so many of each, keep the one that the model finds likeliest
    outpaint: Path | None = None  # a picture that becomes the upper part of one of --size
    inpaint: Path | None = None  # a picture of which the white part of --mask is painted anew
    mask: Path | None = None
    checkpoint: str = "scenes"  # a model checkpoint's folder, or the name of a shipped model
    # devices to share the model and the work, such as tensor=8 or data=2,tensor=4; default: the first device alone
    mesh: str | None = None
    # on a machine without accelerator: split the processor, to try a mesh on it
    cpu_devices: int = 1
    # float32, bfloat16, int8 (weights and cache), int8_weights, int4; default: the model's own
    precision: str | None = None
    # a .png file for one image (default: sample.png), a folder for several, a .txt file for text
    out: Path | None = None
    # also put all images on one labelled sheet; alone: four prompts, four shapes
    contact_sheet: Path | None = None


def main(arguments: list[str] | None = None) -> None:
    """Check everything that can be checked, then load, paint and save."""
    options = parse_arguments(Options, arguments, prog="sample.py")
    decoding(options)  # before anything is read or made
    if options.task is not None:
        ask(options, options.task)
        return
    if options.image or options.views is not None or options.text_top_k is not None:
        raise ValueError(
            "--image, --views and --text-top-k go with a task: --task depth --image photo.png"
        )
    if options.prompts is not None:
        paint_file(options, options.prompts)
        return
    if options.resume or options.batch is not None or options.distributed:
        raise ValueError("--resume, --batch and --distributed go with a file: --prompts FILE.jsonl")
    requests, paths = plan(options)
    print(describe(options, requests), flush=True)
    model = load(options)
    for path, image in zip(paths, paint(model, options, requests), strict=False):
        print(image.save(path))


def ask(options: Options, task: str) -> None:
    """Answer a task of `asking.ASKED`."""
    from lumina_jax.asking import asked_by, check, run

    asked = asked_by(options, task, {**drawing(options), "text_top_k": options.text_top_k})
    check(asked)
    run(load(options), asked)


def drawing(options: Options) -> dict[str, Any]:
    """The named fields of SampleConfig that say among what to draw, None where not named."""
    return {
        "guidance": options.guidance,
        "guidance_schedule": options.guidance_schedule,
        "image_guidance": options.image_guidance,
        "temperature": options.temperature,
        "image_top_k": options.top_k,
        "image_top_p": options.top_p,
        "image_min_p": options.min_p,
    }


def decoding(options: Options) -> dict[str, Any]:
    """The fields of SampleConfig that say how to decode, as far as they are named; ValueError for what cannot be."""
    from lumina_jax.dims import pick
    from lumina_jax.sampling import DECODERS
    from lumina_jax.sampling.drafts import DRAFTS

    names = ("decoder", "window", "drafts", "branches", "lag")
    given = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    pick(DECODERS, given.get("decoder", "sequential"), "decoder")
    pick(DRAFTS, given.get("drafts", "above"), "draft")
    SampleConfig(**given)
    return given


def load(options: Options) -> "Lumina":
    """The model, with the decoder that is asked for."""
    from lumina_jax.loading import layout_of
    from lumina_jax.lumina import Lumina

    if not options.distributed:
        keep_compiled_programs()
    given = decoding(options)
    layout = layout_of(options.mesh, options.cpu_devices)
    model = Lumina.load(options.checkpoint, layout, precision=options.precision)
    model.settings = replace(model.settings, **given)
    return model


def paint_file(options: Options, prompts: Path) -> None:
    """Paint a prompt file. Ends with exit code 130 after Ctrl-C, when what is complete is written."""
    from lumina_jax.serving.image_folder import claim_folder
    from lumina_jax.serving.offline import paint_lines
    from lumina_jax.serving.prompt_file import KEYS, read_prompts

    if options.prompt or options.contact_sheet is not None:
        raise ValueError("--prompts names a file: leave out --prompt and --contact-sheet")
    alone = options.outpaint or options.inpaint or options.mask or options.negative_prompt
    if alone or options.best_of != 1 or options.guidance_schedule:
        raise ValueError(
            "--outpaint, --inpaint, --negative-prompt, --best-of, --guidance-schedule: with --prompt, not with a file"
        )
    if options.grammar not in (None, "exact"):
        raise ValueError(f"--grammar {options.grammar}: files are painted by 'exact' only")
    if options.out is None or options.out.suffix:
        raise ValueError(f"--out {options.out or ''}: images of a file fill a folder; name one")
    if options.batch is not None and options.batch < 1:
        raise ValueError(f"--batch {options.batch}: want 1 or more")
    given = {name: value for name, value in vars(options).items() if value is not None}
    lines = read_prompts(
        prompts, {key: given[key] for key in KEYS.keys() - {"prompt"} if key in given}
    )
    if options.distributed:
        join_cluster("yes")
    else:
        claim_folder(options.out, options.resume)  # before the model is read
    model = load(options)
    painted = paint_lines(
        model, lines, prompts, options.out, resume=options.resume, batch=options.batch
    )
    print(f"{options.out}: {painted.num_finished} of {painted.num_asked} images")
    if painted.signal:
        print("stopped: the same command with --resume goes on", file=sys.stderr)
        sys.exit(128 + painted.signal)


def plan(options: Options) -> tuple[list[tuple[str, tuple[int, int] | None]], list[Path]]:
    """What to paint, (prompt, size) each, and where to; ValueError or OSError of one line for what cannot be."""
    from lumina_jax.image_files import check_folder, check_png_path, picture_name

    if options.contact_sheet is not None:
        check_png_path(options.contact_sheet)
    check_pictures(options)
    if not options.prompt:
        if options.contact_sheet is None:
            raise ValueError('no prompt: say what to paint, --prompt "a red dome"')
        from lumina_jax.contact_sheet import DEFAULT_REQUESTS

        return [(prompt, size) for prompt, size in DEFAULT_REQUESTS], []
    if any(not prompt.strip() for prompt in options.prompt):
        raise ValueError('empty prompt: say what to paint, --prompt "a red dome"')
    requests = [(prompt, parse_size(options.size)) for prompt in options.prompt]
    out = options.out or Path("sample.png")
    if out.suffix.lower() == ".png":
        if len(requests) > 1:
            raise ValueError(f"--out {out}: one file for {len(requests)} images; name a folder")
        check_png_path(out)
        return requests, [out]
    if out.suffix:
        raise ValueError(
            f"--out {out}: images are written as PNG; name a .png file, or a folder without a dot"
        )
    check_folder(out)
    return requests, [out / picture_name(*pair) for pair in enumerate(options.prompt)]


def check_pictures(options: Options) -> None:
    """ValueError of one line unless the pictures to paint in belong together."""
    if (options.outpaint or options.inpaint or options.mask) and not options.prompt:
        raise ValueError('--outpaint and --inpaint: say what to paint, --prompt "a red dome"')
    if options.outpaint is not None and options.inpaint is not None:
        raise ValueError("--outpaint and --inpaint: one of them at a time")
    if options.outpaint is not None and options.size is None:
        raise ValueError(f"--outpaint {options.outpaint}: how large is it to become? give --size")
    if (options.inpaint is None) != (options.mask is None):
        raise ValueError("--inpaint and --mask: want both, two pictures of one size")
    if options.inpaint is not None and options.size is not None:
        raise ValueError("--size: --inpaint keeps the size of its picture; drop one of them")


def paint(model: "Lumina", options: Options, requests: list) -> list["GeneratedImage"]:
    """All images, and the contact sheet where one is asked for."""
    prompts = [prompt for prompt, _ in requests]
    how = {
        **drawing(options),
        "negative_prompt": options.negative_prompt,
        "grammar": options.grammar,
        "best_of": options.best_of,
        "progress": True,
    }
    if options.outpaint is not None:
        images = model.outpaint(options.outpaint, requests[0][1], prompts, options.seed, **how)
    elif options.inpaint is not None and options.mask is not None:
        images = model.inpaint(options.inpaint, options.mask, prompts, options.seed, **how)
    else:
        sizes = [size or model.trained_size for _, size in requests]
        images = model.generate(prompts, sizes, options.seed, **how)
    if options.contact_sheet is not None:
        from lumina_jax.contact_sheet import contact_sheet
        from lumina_jax.image_files import save_png

        notes = {"images": json.dumps([image.metadata for image in images], ensure_ascii=False)}
        print(save_png(contact_sheet(images), options.contact_sheet, notes))
    return images


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "128x96" to (128, 96); ValueError for anything else."""
    from lumina_jax.unirep.grid import parse_size

    return None if text is None else parse_size(text)


def describe(options: Options, requests: list) -> str:
    """The settings in one line."""
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    del given["prompt"]
    shown = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return f"painting {len(requests)} image{'s' * (len(requests) != 1)}: {shown}"


if __name__ == "__main__":
    run_main(main)
