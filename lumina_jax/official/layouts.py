"""Painted images in the folders that the scorers of GenEval, DPG-Bench and T2I-CompBench read.

    GenEval        00000/metadata.jsonl (the prompt's line), 00000/samples/0000.png, 0001.png, …
    DPG-Bench      NAME.png: four images of one prompt, two by two: the scorer cuts squares of --resolution out of it
    T2I-CompBench  samples/PROMPT_000000.png, numbered over all prompts

Each is made whole under another name, then renamed: a scorer never counts half of it, nor a file that is none of it.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from lumina_jax.image_files import open_image, save_png
from lumina_jax.official.prompt_sets import OfficialPrompt

Pictures = Sequence[Sequence[Path]]  # those of every prompt
GRID_SIDE = 2  # images in a row of DPG-Bench's grid


def geneval(folder: Path, prompts: Sequence[OfficialPrompt], pictures: Pictures) -> None:
    """A folder a prompt: its line of the metadata, and its images under `samples`."""
    for prompt, files in zip(prompts, pictures, strict=True):
        samples = folder / prompt.name / "samples"
        samples.mkdir(parents=True)
        line = json.dumps(dict(prompt.metadata)) + "\n"
        (samples.parent / "metadata.jsonl").write_text(line)
        for index, file in enumerate(files):
            shutil.copyfile(file, samples / f"{index:04d}.png")


def dpg(folder: Path, prompts: Sequence[OfficialPrompt], pictures: Pictures) -> None:
    """One RGB picture a prompt, and no other file: the scorer takes every name for one of its prompts."""
    for prompt, files in zip(prompts, pictures, strict=True):
        images = [open_image(file).convert("RGB") for file in files]
        save_png(grid_of(images), folder / f"{prompt.name}.png", {"prompt": prompt.text})


def compbench(folder: Path, prompts: Sequence[OfficialPrompt], pictures: Pictures) -> None:
    """All images of a category in one folder, numbered through: the number is the scorer's question_id."""
    samples, number = folder / "samples", 0
    samples.mkdir()
    for prompt, files in zip(prompts, pictures, strict=True):
        for file in files:
            shutil.copyfile(file, samples / f"{prompt.name}_{number:06d}.png")
            number += 1


def grid_of(images: Sequence[Image.Image]) -> Image.Image:
    """One image as it is, two to four in a square of two by two, row by row; places without one are black."""
    width, height = images[0].size
    if len(images) == 1:
        return images[0]
    grid = Image.new("RGB", (GRID_SIDE * width, GRID_SIDE * height))
    for index, image in enumerate(images):
        row, column = divmod(index, GRID_SIDE)
        grid.paste(image, (column * width, row * height))
    return grid


def arrange(
    benchmark: str, folder: Path, prompts: Sequence[OfficialPrompt], pictures: Pictures
) -> Path:
    """Write the layout of `benchmark` to `folder`, whole or not at all; one that is there stays as it is."""
    if folder.is_dir():
        return folder
    writing = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    LAYOUTS[benchmark](writing, prompts, pictures)
    os.replace(writing, folder)
    return folder


LAYOUTS: Mapping[str, Callable[[Path, Sequence[OfficialPrompt], Pictures], None]] = {
    "geneval": geneval,
    "dpg": dpg,
    "compbench": compbench,
}
