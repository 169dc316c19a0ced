"""The prompts of a benchmark painted through the package's own painter, and laid out for its scorer.

OUT/prompts.jsonl   one image a line with its seed and size, as `sample.py --prompts` reads them
OUT/painted/        the images, resumable, with `images.jsonl`
OUT/run.json        what made them: benchmark, checkpoint, settings, seeds, commit
OUT/scorer/         what the public scorer reads, there once all are painted
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.config import SampleConfig
from lumina_jax.lumina import Lumina
from lumina_jax.official.layouts import GRID_SIDE, arrange
from lumina_jax.official.prompt_sets import READERS, OfficialPrompt
from lumina_jax.official.runs import begin_run
from lumina_jax.paths import write_bytes
from lumina_jax.serving.offline import Painted, paint_lines
from lumina_jax.serving.prompt_file import read_prompts

IMAGES_PER_PROMPT = {  # what the papers' scores are of
    "geneval": 4,
    "dpg": 4,
    "compbench": 10,
}


class Job(NamedTuple):
    """What of a benchmark is painted."""

    benchmark: str  # a row of READERS
    source: Path  # its official prompts
    images_per_prompt: int
    size: tuple[int, int]  # (width, height) px
    first_seed: int  # of the first image; every image has the next


def paint_benchmark(
    model: Lumina,
    job: Job,
    out: str | Path,
    *,
    settings: SampleConfig | None = None,
    resume: bool = False,
    batch: int | None = None,
) -> Painted:
    """Paint a benchmark's prompts into `out`, and lay the images out for its scorer once all are there.

    Image k of prompt i has seed first_seed + i * images_per_prompt + k. Raises ValueError of one line, before anything
    is drawn, for prompts, sizes or a folder that do not fit (`runs.begin_run`).
    """
    settings = settings or model.settings
    check_job(job)
    prompts = READERS[job.benchmark](job.source)
    asked = prompt_lines(job, prompts)
    out = begin_run(out, run_notes(model, job, settings, asked), resume)
    write_bytes(out / "prompts.jsonl", asked)
    lines = read_prompts(out / "prompts.jsonl")
    painted = paint_lines(
        model,
        lines,
        out / "prompts.jsonl",
        out / "painted",
        resume=True,
        settings=settings,
        batch=batch,
    )
    if painted.num_finished == len(lines):
        files = [out / "painted" / line.file for line in lines]
        count = job.images_per_prompt
        pictures = [files[start : start + count] for start in range(0, len(files), count)]
        arrange(job.benchmark, out / "scorer", prompts, pictures)
    return painted


def check_job(job: Job) -> None:
    """Raise ValueError of one line for what a benchmark's scorer cannot read."""
    width, height = job.size
    if job.images_per_prompt < 1:
        raise ValueError(f"{job.images_per_prompt} images a prompt: want 1 or more")
    if job.benchmark == "dpg":
        if width != height:
            raise ValueError(
                f"size {width}x{height}: DPG-Bench's scorer cuts squares out; want width = height"
            )
        if job.images_per_prompt > GRID_SIDE**2:
            raise ValueError(
                f"{job.images_per_prompt} images a prompt: DPG-Bench's grid holds {GRID_SIDE**2}"
            )


def prompt_lines(job: Job, prompts: Sequence[OfficialPrompt]) -> bytes:
    """The prompts as a file of this package's painter, one image a line; a picture's name is PROMPT-IMAGE."""
    lines = []
    for index, prompt in enumerate(prompts):
        for image in range(job.images_per_prompt):
            line = {
                "prompt": prompt.text,
                "size": "{}x{}".format(*job.size),
                "seed": job.first_seed + index * job.images_per_prompt + image,
                "id": f"{index:05d}-{image:02d}",
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def run_notes(model: Lumina, job: Job, settings: SampleConfig, asked: bytes) -> dict[str, Any]:
    """What is needed to repeat a run, as `run.json` holds it; `asked`: its `prompt_lines`."""
    num_images = asked.count(b"\n")
    return {
        "benchmark": job.benchmark,
        "prompts": {
            "name": job.source.name,
            "number": num_images // job.images_per_prompt,
            "sha256": hashlib.sha256(asked).hexdigest(),
        },
        "images_per_prompt": job.images_per_prompt,
        "size": "{}x{}".format(*job.size),
        "seeds": [job.first_seed, job.first_seed + num_images - 1],
        "settings": asdict(settings),
        "checkpoint": model.checkpoint,
        "precision": model.precision,
        "image_layout": model.config.image_layout,
    }
