"""The training loop's `on_eval`: sheets of samples as PNG, and quick scores, out of the training state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from lumina_jax.checkpoint import load_model
from lumina_jax.contact_sheet import contact_sheet
from lumina_jax.data.scenes.detector import detect
from lumina_jax.data_config import ScenesSource
from lumina_jax.evals.prompts import Prompt, eval_prompts
from lumina_jax.evals.reconstruction import (
    held_out_scenes,
    pictures,
    psnr_db,
    reads_the_same,
    vqgan_round_trip,
)
from lumina_jax.evals.scores import CHOOSING_SEED, outcome, summary
from lumina_jax.experiment import Experiment
from lumina_jax.image_files import save_png
from lumina_jax.lumina import Lumina
from lumina_jax.model.params import unstack_layers
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.vqgan_step import released_params

OnEval = Callable[[Any, int, Path], Mapping[str, float]]  # (state, step, workdir) -> metrics
ROW = 6  # images a row of a sheet
NUM_PICTURES = 24  # scenes of a VQGAN's quick score


def make_on_eval(experiment: Experiment, per_category: int = 4) -> OnEval | None:
    """What `train` calls every `eval_every` steps: writes `workdir/samples/<step>.png` and returns scores.

    A transformer paints `train.eval_prompts` (or prompts of each category) as a sheet and `per_category` prompts of
    each category for the score, at the area of the current stage. Those are sentences for choosing settings: the
    evaluation's own stay unseen. A run without a `ScenesSource` paints `train.eval_prompts` alone, unscored; None
    where there are none. A VQGAN shows pictures with their reconstructions below.
    """
    if experiment.trainee == "vqgan":
        return _on_vqgan(experiment)
    of_scenes = any(isinstance(source, ScenesSource) for source in experiment.data.sources)
    if not of_scenes and not experiment.train.eval_prompts:
        return None
    return _on_model(experiment, per_category if of_scenes else 0)


def stage_size(experiment: Experiment, step: int) -> tuple[int, int]:
    """(width, height) px of a square of the area that the stage of `step` trains; the model's own if unknown.

    A model of Chameleon's layout paints its own size alone.
    """
    if experiment.model.image_layout == "chameleon":
        return experiment.model.target_px, experiment.model.target_px
    stages, sources = experiment.train.stages, experiment.data.sources
    stage_of_steps = Curriculum(stages).stage_of_steps()
    stage = stages[stage_of_steps[min(max(step, 1), len(stage_of_steps)) - 1]]
    names = {name for name, _ in stage.mixture}
    used = [s for s in sources if s.name in names and isinstance(s, ScenesSource)]
    side_px = max((s.target_px for s in used), default=experiment.model.target_px)
    return side_px, side_px


def _on_model(experiment: Experiment, per_category: int) -> OnEval:
    assets = load_model(experiment.assets, parts=("vqgan",))
    prompts = eval_prompts(per_category, purpose="choose") if per_category else []
    shown = list(experiment.train.eval_prompts) or _two_of_each(prompts)

    def on_eval(state: Any, step: int, workdir: Path) -> dict[str, float]:
        params = _on_this_host(state.params if state.ema is None else state.ema)
        if jax.process_index() != 0:
            return {}
        if experiment.model.transformer.scan_layers:
            params = unstack_layers(params)
        vqgan, settings = assets.params["vqgan"], experiment.sample
        model = Lumina(experiment.model, params, vqgan, assets.tokenizer, settings, f"step {step}")
        size = stage_size(experiment, step)
        texts = [prompt.text for prompt in prompts] + shown
        seeds = [CHOOSING_SEED + index for index in range(len(texts))]
        images = model.generate(texts, size=size, seed=seeds)
        sheets = [contact_sheet(row) for row in _rows(images[len(prompts) :])]
        _save(stacked(sheets), workdir, step)
        sized = [replace(prompt, width_px=size[0], height_px=size[1]) for prompt in prompts]
        return _quick_scores(sized, images[: len(prompts)]) if sized else {}

    return on_eval


def _on_vqgan(experiment: Experiment) -> OnEval:
    def on_eval(state: Any, step: int, workdir: Path) -> dict[str, float]:
        params = _on_this_host(released_params(state))
        if jax.process_index() != 0:
            return {}
        round_trip = vqgan_round_trip(params, experiment.model.vqgan)
        originals, outputs, same, decibels = [], [], [], []
        for scene, size in held_out_scenes(NUM_PICTURES):
            for name, picture in pictures(scene, size):
                output = round_trip(picture)
                decibels.append((name, psnr_db(picture, output)))
                if name == "render":
                    side_px = sqrt(size[0] * size[1])
                    same.append(reads_the_same(detect(picture), detect(output), side_px))
                if len(originals) < 2 * ROW:
                    originals.append(picture)
                    outputs.append(output)
        pairs = [
            stacked([Image.fromarray(p) for p in pair])
            for pair in zip(originals, outputs, strict=True)
        ]
        _save(stacked([beside(row) for row in _rows(pairs)]), workdir, step)
        renders = [value for name, value in decibels if name == "render"]
        answers = [value for name, value in decibels if name != "render"]
        return {
            "eval_psnr_db": float(np.mean(renders)),
            "eval_answers_psnr_db": float(np.mean(answers)),
            "eval_read_the_same": float(np.mean(same)),
        }

    return on_eval


def stacked(images: Sequence[Image.Image], gap_px: int = 4) -> Image.Image:
    """Images below each other, on white."""
    width = max(image.width for image in images)
    height = sum(image.height + gap_px for image in images) - gap_px
    sheet, top = Image.new("RGB", (width, height), "white"), 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height + gap_px
    return sheet


def beside(images: Sequence[Image.Image], gap_px: int = 4) -> Image.Image:
    """Images next to each other, on white."""
    width = sum(image.width + gap_px for image in images) - gap_px
    sheet, left = Image.new("RGB", (width, max(image.height for image in images)), "white"), 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + gap_px
    return sheet


def _two_of_each(prompts: Sequence[Prompt]) -> list[str]:
    """The first two sentences of each category."""
    texts: dict[str, list[str]] = {}
    for prompt in prompts:
        texts.setdefault(prompt.category, []).append(prompt.text)
    return [text for found in texts.values() for text in found[:2]]


def _quick_scores(prompts: Sequence[Prompt], images: Sequence[Any]) -> dict[str, float]:
    """{"eval_score": …, "eval_counting": …} of images painted for `prompts`."""
    pairs = zip(prompts, images, strict=True)
    found = summary([outcome(prompt, image.seed, detect(image.pixels)) for prompt, image in pairs])
    parts = {f"eval_{name}": row["score"] for name, row in found["categories"].items()}
    return {"eval_score": found["overall"]["score"], **parts}


def _rows(images: Sequence[Any]) -> list[Sequence[Any]]:
    """Images in rows of ROW."""
    return [images[first : first + ROW] for first in range(0, len(images), ROW)]


def _save(sheet: Image.Image, workdir: Path, step: int) -> None:
    """Write `workdir/samples/<step>.png`."""
    save_png(sheet, workdir / "samples" / f"{step:06d}.png", {})


def _on_this_host(params: Any) -> Any:
    """The whole tree in this process's memory, wherever its shards lie; every process must call it."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(params, tiled=True)
    return jax.device_get(params)
