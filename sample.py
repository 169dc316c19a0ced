"""Paint images from prompts, with the shipped model unless another checkpoint is named.

    python sample.py --prompt "a red dome left of a blue ring" --size 128x96 --seed 1 --out dome.png
    python sample.py --prompt "a dome" --prompt "three rings" --out pictures/
    python sample.py --contact-sheet sheet.png

Every PNG carries its prompt, seed and settings as metadata.
"""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lumina_jax.cli import parse_arguments, run_main

if TYPE_CHECKING:
    from lumina_jax.generated_image import GeneratedImage
    from lumina_jax.lumina import Lumina


@dataclass(frozen=True)
class Options:
    """Paint images from prompts."""

    prompt: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction
    ] = ()  # repeat it for several images
    size: str | None = None  # WIDTHxHEIGHT in px; default: the trained square
    seed: int = 0  # the same seed, prompt, size and settings paint the same image
    # how closely to follow the prompt; 1 is off; default: the model's own
    guidance: float | None = None
    # pull of the prompt's images alone, in a third stream (Chameleon: 1.2); default: the model's own
    image_guidance: float | None = None
    top_k: int | None = None  # image codes to draw among; 1 is greedy; default: the model's own
    top_p: float | None = None  # share of their probability to draw from; default: the model's own
    temperature: float | None = None  # default: the model's own
    grammar: str | None = None  # exact: the asked size; original: as the original, unenforced
    checkpoint: str = "scenes"  # a model checkpoint's folder, or the name of a shipped model
    # float32, bfloat16, int8 (weights and cache), int8_weights, int4; default: the model's own
    precision: str | None = None
    out: Path = Path("sample.png")  # a .png file for one image, a folder for several
    # also put all images on one labelled sheet; alone: four prompts, four shapes
    contact_sheet: Path | None = None


def main(arguments: list[str] | None = None) -> None:
    """Check everything that can be checked, then load, paint and save."""
    options = parse_arguments(Options, arguments, prog="sample.py")
    requests, paths = plan(options)
    from lumina_jax.lumina import Lumina

    print(describe(options, requests), flush=True)
    model = Lumina.load(options.checkpoint, options.precision)
    for path, image in zip(paths, paint(model, options, requests), strict=False):
        print(image.save(path))


def plan(options: Options) -> tuple[list[tuple[str, tuple[int, int] | None]], list[Path]]:
    """What to paint, (prompt, size) each, and where to; ValueError or OSError of one line for what cannot be."""
    from lumina_jax.image_files import check_folder, check_png_path

    if options.contact_sheet is not None:
        check_png_path(options.contact_sheet)
    if not options.prompt:
        if options.contact_sheet is None:
            raise ValueError('no prompt: say what to paint, --prompt "a red dome"')
        from lumina_jax.contact_sheet import DEFAULT_REQUESTS

        return [(prompt, size) for prompt, size in DEFAULT_REQUESTS], []
    if any(not prompt.strip() for prompt in options.prompt):
        raise ValueError('empty prompt: say what to paint, --prompt "a red dome"')
    requests = [(prompt, parse_size(options.size)) for prompt in options.prompt]
    if options.out.suffix.lower() == ".png":
        if len(requests) > 1:
            raise ValueError(
                f"--out {options.out}: one file for {len(requests)} images; name a folder"
            )
        check_png_path(options.out)
        return requests, [options.out]
    if options.out.suffix:
        raise ValueError(
            f"--out {options.out}: images are written as PNG; name a .png file, or a folder without a dot"
        )
    check_folder(options.out)
    return requests, [options.out / file_name(*pair) for pair in enumerate(options.prompt)]


def paint(model: "Lumina", options: Options, requests: list) -> list["GeneratedImage"]:
    """All images, and the contact sheet where one is asked for."""
    images = model.generate(
        [prompt for prompt, _ in requests],
        [size or model.trained_size for _, size in requests],
        options.seed,
        guidance=options.guidance,
        image_guidance=options.image_guidance,
        temperature=options.temperature,
        image_top_k=options.top_k,
        image_top_p=options.top_p,
        grammar=options.grammar,
        progress=True,
    )
    if options.contact_sheet is not None:
        from lumina_jax.contact_sheet import contact_sheet
        from lumina_jax.image_files import save_png

        notes = {"images": json.dumps([image.metadata for image in images], ensure_ascii=False)}
        print(save_png(contact_sheet(images), options.contact_sheet, notes))
    return images


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "128x96" to (128, 96); ValueError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text.strip())
    if match is None:
        raise ValueError(f"size {text!r}: want WIDTHxHEIGHT in pixels, such as 128x96")
    return int(match[1]), int(match[2])


def file_name(index: int, prompt: str) -> str:
    """ "02-a-red-dome.png": the place in the list and the first words of the prompt."""
    words = re.findall(r"\w+", prompt.lower())[:8]
    return "-".join([f"{index:02d}", *words])[:100] + ".png"


def describe(options: Options, requests: list) -> str:
    """The settings in one line."""
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    del given["prompt"]
    shown = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return f"painting {len(requests)} image{'s' * (len(requests) != 1)}: {shown}"


if __name__ == "__main__":
    run_main(main)
