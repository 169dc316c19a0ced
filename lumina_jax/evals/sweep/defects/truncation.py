"""Silent truncation: a conversation longer than max_seq_len loses its end, and nothing says so."""

from math import ceil
from typing import Any

import numpy as np

from lumina_jax.config import GridConfig
from lumina_jax.evals.answering import encoded, settings_of
from lumina_jax.evals.example import Example
from lumina_jax.evals.intervals import mean, within_noise
from lumina_jax.evals.intervals import share as share_of
from lumina_jax.evals.protocol import EXAMPLES
from lumina_jax.evals.sweep.points import Point, Sweep
from lumina_jax.evals.sweep.sentences import some_examples, text_and_images
from lumina_jax.sampling.original import continue_ids, first_image
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.grid import crop_sizes, image_token_count

LIMIT = 4096  # max_seq_len of the original's training script
TARGETS_PX = (512, 768, 1024)  # its stages
TASK = "segmentation"  # asked with contexts that are cut


def silent_truncation(sweep: Sweep) -> Point:
    """The share of conversations that lose tokens at LIMIT in the original's grid, over tasks, stages and sizes.

    Counted, not drawn: conversations are the protocol's, all their images of one size, every allowed size alike. Beside
    it by stage and task; and what becomes of answers whose context is cut as that of a 1024 px picture would be.
    """
    counted = _counted(sweep)
    lost = [share for _, _, share, _ in counted]
    by_stage = {
        f"{px} px": {
            "loses": mean([share for target, _, share, _ in counted if target == px]),
            "tokens_lost": mean([tokens for target, _, _, tokens in counted if target == px]),
            "tasks": {
                task: mean([row[2] for row in counted if row[:2] == (px, task)])["score"]
                for task in EXAMPLES
            },
        }
        for px in TARGETS_PX
    }
    cut = _cut_contexts(sweep)
    told = ", ".join(f"{row['loses']['score']:.0%} at {name}" for name, row in by_stage.items())
    noise = ": within noise" if within_noise(cut["gain"]) else ""
    return {
        "metric": f"share of conversations longer than {LIMIT} tokens",
        **mean(lost),
        "sentence": (
            f"Of the conversations {told} lose their end; with a context cut likewise by {cut['share']:.1%}, "
            f"{cut['cut']['score']:.0%} of the answers hold an image of the asked size instead of "
            f"{cut['whole']['score']:.0%}{noise}."
        ),
        "stages": by_stage,
        "cut_contexts": cut,
    }


def _counted(sweep: Sweep) -> list[tuple[int, str, float, float]]:
    """(stage, task, share of sizes at which tokens are lost, mean share of tokens lost) of every conversation."""
    lengths = {
        px: np.array(
            [image_token_count(*size, GridConfig()) for size in crop_sizes(px, GridConfig())]
        )
        for px in TARGETS_PX
    }
    found = []
    for task in EXAMPLES:
        for example in some_examples(task, sweep.amounts.examples):
            text, images = text_and_images(example, sweep.model.tokenizer)
            for px, counts in lengths.items():
                tokens = text + images * counts
                over = np.maximum(tokens - LIMIT, 0)
                found.append((px, task, float((over > 0).mean()), float((over / tokens).mean())))
    return found


def _cut_contexts(sweep: Sweep) -> dict[str, Any]:
    """Images of the asked size among answers by the original's rules, with whole and with cut contexts."""
    model, asked = sweep.model, some_examples(TASK, sweep.amounts.examples)
    square = image_token_count(TARGETS_PX[-1], TARGETS_PX[-1], GridConfig())
    text, images = text_and_images(asked[0], model.tokenizer)
    context = (images - 1) * square + text - 1  # before the answer and its separator
    share = 1 - LIMIT / context
    sentences = list(encoded(model, [each.turns[0].shown[0] for each in asked]))
    readable: dict[str, list[bool]] = {"whole": [], "cut": []}
    for example, sentence in zip(asked, sentences, strict=True):
        ids = prompt_ids(example.turns[0].said, model.tokenizer, [sentence], np.asarray)
        kept = {"whole": ids, "cut": ids[: len(ids) - ceil(share * len(ids))]}
        for name, part in kept.items():
            readable[name].append(_is_answered(sweep, example, part))
    pairs = zip(readable["cut"], readable["whole"], strict=True)
    gain = mean([int(cut) - int(whole) for cut, whole in pairs])
    return {"share": share, **{n: share_of(found) for n, found in readable.items()}, "gain": gain}


def _is_answered(sweep: Sweep, example: Example, context: np.ndarray) -> bool:
    """Whether an image of the asked size can be read in what follows a context."""
    model, (width_px, height_px) = sweep.model, example.truth.size
    settings = settings_of(TASK, model, {})
    codes = first_image(continue_ids(model.loaded, context, settings, example.seed), model.loaded)
    patch_px = model.config.grid.patch_px
    return codes is not None and codes.shape == (height_px // patch_px, width_px // patch_px)
