"""The shipped model's tokenizer, trained on every sentence that the scenes' tasks can say.

    python -m lumina_jax.data.scenes.text_model lumina_jax/assets/scenes --num-codes 1024

writes `tokenizer.model`: a pure function of the options, seconds on one core, no download.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from lumina_jax.config import GridConfig
from lumina_jax.data.scenes.captions import (
    BACKGROUND_WORDING,
    OPENINGS,
    PLACES,
    RELATION_WORDING,
    Look,
    caption,
    listed,
    noun,
    plural,
)
from lumina_jax.data.scenes.edits import edits
from lumina_jax.data.scenes.questions import questions
from lumina_jax.data.scenes.scene import BACKGROUNDS, COLOURS, SHAPES, sample_scene
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER
from lumina_jax.unirep.grid import crop_sizes
from lumina_jax.unirep.tasks import TASKS, template_phrases, text_to_image
from lumina_jax.unirep.text import SENTENCEPIECE_NAME, SentencePieceTokenizer
from lumina_jax.unirep.train_text import train_sentencepiece

NUM_SCENES = 5_000  # scenes whose sentences make up the corpus
TARGETS_PX = (64, 96, 128, 160)  # areas of the corpus's canvases
UNIT_PX = 16  # the shipped model's grid
MAX_RATIO = 2.0
MAX_SIDE_PX = 512  # sides up to here are one token in a prompt


def all_texts(seed: int, num_scenes: int) -> list[str]:
    """What the tasks say about `num_scenes` scenes: prompts, captions, instructions, questions and answers.

    Reserved shapes and colours appear too, so that the vocabulary names them. The same arguments give the same
    list; each scene is a pure function of (seed, index).
    """
    grid = GridConfig(patch_px=UNIT_PX, unit_px=UNIT_PX, max_ratio=MAX_RATIO)
    sizes = [size for target_px in TARGETS_PX for size in crop_sizes(target_px, grid)]
    texts = []
    for index in range(num_scenes):
        rng = np.random.default_rng((seed, index))
        width_px, height_px = sizes[int(rng.integers(len(sizes)))]
        scene = sample_scene(rng, width_px, height_px, reserved=index % 4 == 0)
        told = caption(scene, rng)
        texts += [text_to_image(width_px, height_px, told), f" {told}", told]
        texts += [part for q in questions(scene, rng) for part in (q.question, q.answer)]
        texts += [edit.instruction for edit in edits(scene, rng)]
        thing = scene.objects[0]
        phrase = noun(Look(thing.shape, thing.colour), article="the")
        texts.append(
            TASKS["detection"].prompt(phrase=phrase).replace(IMAGE_PLACEHOLDER, "").rstrip()
        )
    return texts + _words()


def phrases() -> list[str]:
    """Fixed parts of prompts that are one token each: templates, sides in pixels, a caption's opening and relations."""
    sides = range(UNIT_PX, MAX_SIDE_PX + 1, UNIT_PX)
    relations = [f" {wording}" for wordings in RELATION_WORDING.values() for wording in wordings]
    places = [f" {place}" for pair in PLACES.values() for place in pair]
    backgrounds = [
        f" {wording}" for wordings in BACKGROUND_WORDING.values() for wording in wordings
    ]
    openings = [opening.rstrip() for opening in OPENINGS if opening]
    numbers = [f"{side}x" for side in sides] + [str(side) for side in sides]
    return list(
        dict.fromkeys([*template_phrases(), *openings, *relations, *places, *backgrounds, *numbers])
    )


@dataclass(frozen=True)
class TextModelConfig:
    """What the tokenizer is trained for."""

    out: tyro.conf.Positional[Path]  # folder of `tokenizer.model`, or a path that ends in .model
    num_codes: int = 1024  # M of the VQGAN it goes with
    num_sizes: int = 65  # size tokens, 0 … 64 units (GridConfig.max_units)
    num_texts: int = (
        1024  # ids beside the image codes: controls, sizes, phrases, bytes, characters, words
    )
    num_scenes: int = NUM_SCENES
    seed: int = 0


def train_text_model(config: TextModelConfig) -> SentencePieceTokenizer:
    """Train, write and read back the tokenizer."""
    path = config.out if config.out.suffix == ".model" else config.out / SENTENCEPIECE_NAME
    vocab_size, fixed = config.num_codes + config.num_texts, phrases()
    texts = all_texts(config.seed, config.num_scenes)
    return train_sentencepiece(texts, path, config.num_codes, config.num_sizes, vocab_size, fixed)


def _words() -> list[str]:
    """Every name in both numbers, at the start of a text and within one, often enough to become one piece."""
    names = [*COLOURS, *SHAPES, *(plural(shape) for shape in SHAPES), *BACKGROUNDS]
    return [text for name in names for text in (name, f" {name}")] * 400 + [listed(names)]


def report(tokenizer: SentencePieceTokenizer, num_scenes: int = 2000, seed: int = 1) -> str:
    """Tokens per caption and per whole prompt, on scenes that the tokenizer was not trained on."""
    rng = np.random.default_rng(seed)
    told = [caption(sample_scene(rng, 128, 128), rng) for _ in range(num_scenes)]
    lengths = [len(tokenizer.encode(text)) for text in told]
    prompts = [len(tokenizer.encode(text_to_image(128, 128, text))) for text in told]
    return (
        f"{tokenizer.path}: {tokenizer.vocab.size} ids; caption {np.mean(lengths):.1f} tokens "
        f"(longest {max(lengths)}), prompt {np.mean(prompts):.1f} (longest {max(prompts)})"
    )


def main() -> None:
    """Train from the command line and report the tokens per caption."""
    config = tyro.cli(TextModelConfig, description=__doc__)
    try:
        print(report(train_text_model(config)))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
