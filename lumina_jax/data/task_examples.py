"""Conversations of one task as examples of the TFDS dataset: what is asked, with pictures, and what is answered."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from lumina_jax.data.recipes import RECIPES, make_conversation
from lumina_jax.data_config import ScenesSource
from lumina_jax.dims import pick
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER

Size = tuple[int, int]  # (width, height) px


def task_source(task: str, target_px: int, num: int, seed: int, reserved: bool) -> ScenesSource:
    """The source of a task's conversations; those of "pose" show a figure. ValueError for an unknown task."""
    pick(RECIPES, task, "task of the scenes")
    shows = "figure" if task == "pose" else ""
    return ScenesSource(
        task, target_px, num, seed=seed, reserved=reserved, shows=shows, tasks=((task, 1.0),)
    )


def task_features(picture: Callable[[], Any], text: Any, sequence: Callable[[Any], Any]) -> Any:
    """The features of an example, of what the library calls a picture, a text and a sequence.

    "prompt" and "answer" are the first turn, <|image|> in the place of each of "images" and "answer_images".
    "later" are the turns after it, and "later_images" their pictures in order.
    """
    return {
        "prompt": text,
        "images": sequence(picture()),
        "answer": text,
        "answer_images": sequence(picture()),
        "later": sequence({"prompt": text, "answer": text}),
        "later_images": sequence(picture()),
    }


def task_example(source: ScenesSource, size: Size, index: int) -> dict[str, Any]:
    """Conversation `index` of a source, by the names of `task_features`; pictures as PNG bytes."""
    conversation = make_conversation(source, size, index)
    said = [turn["value"] for turn in conversation.turns]
    pictures = [png(pixels) for pixels in conversation.images]
    asked = said[0].count(IMAGE_PLACEHOLDER)
    answered = asked + said[1].count(IMAGE_PLACEHOLDER)
    return {
        "prompt": said[0],
        "images": pictures[:asked],
        "answer": said[1],
        "answer_images": pictures[asked:answered],
        "later": [
            {"prompt": prompt, "answer": answer}
            for prompt, answer in zip(said[2::2], said[3::2], strict=True)
        ],
        "later_images": pictures[answered:],
    }


def png(pixels: np.ndarray) -> bytes:
    """uint8[Y, X, 3] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
