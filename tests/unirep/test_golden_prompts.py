"""Golden parity of prompts: what a released model is asked, against ids put together here from the file alone."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from lumina_jax.unirep.conversation import conversation_ids, prompt_ids
from lumina_jax.unirep.tasks import TASKS, task_prompt

IMAGE = [8197, 8805, 8806, 11, 12, 13, 14, 8803, 15, 16, 17, 18, 8803, 8196]  # 64x32 px
OTHER = [8197, 8805, 8805, 21, 22, 8803, 23, 24, 8803, 8196]
CAPTION = "two cats, asleep"
# What the original's demos and paper send, in the released spelling: texts, and None where an image stands.
SENT = {
    "text_to_image": [
        f"Generate an image of 512x768 according to the following prompt:\n{CAPTION}"
    ],
    "text_to_image_any_size": [f"Generate an image according to the following prompt:\n{CAPTION}"],
    "multi_view": [
        f"Generate 16 object views of 512x768 according to the following prompt: {CAPTION}"
    ],
    "image_condition": [
        "Generate an image according to the provided image, and according to the following "
        f"caption:\n{CAPTION} ",
        None,
    ],
    "segmentation": ["Segmentic segmentation. ", None],
    "depth": ["Depth estimation. ", None],
    "normals": ["Surface normal estimation. ", None],
    "pose": ["Human pose estimation. ", None],
    "detection": [f"Detect: {CAPTION} ", None],
    "describe": ["Describe the image in detail. ", None],
    "question": [f"{CAPTION} ", None],
    "edit": [f"{CAPTION} ", None],
    "next_edit": [CAPTION],
    "chat": [CAPTION],
}
VALUES = {"width": 512, "height": 768, "views": 16}


@pytest.fixture(scope="module")
def ids_of(golden_tokenizer_path):
    """`ids_of(turns, images)`: start, every turn's texts and images in order, the separator after each turn."""
    tokenizer = Tokenizer.from_file(str(golden_tokenizer_path))

    def make(turns: list[list], images: list[list[int]]) -> list[int]:
        waiting, ids = iter(images), [0]
        for turn in turns:
            for part in turn:
                text = part is not None
                ids += (
                    tokenizer.encode(part, add_special_tokens=False).ids if text else next(waiting)
                )
            ids.append(8710)
        return ids

    return make


def test_every_task_is_listed() -> None:
    assert set(SENT) == set(TASKS)


@pytest.mark.parametrize("task", SENT)
def test_prompt_ids_equal_what_the_original_sends(golden_tokenizer, ids_of, task) -> None:
    values = {name: VALUES.get(name, CAPTION) for name in TASKS[task].fields}
    prompt = task_prompt(task, golden_tokenizer, **values)
    images = [IMAGE] * SENT[task].count(None)
    got = prompt_ids(prompt, golden_tokenizer, images, np.asarray)
    assert got.tolist() == ids_of([SENT[task]], images)


def test_several_images_and_turns_equal_what_the_original_sends(golden_tokenizer, ids_of) -> None:
    said = ["<|image|> or <|image|>: which is wider?", "The first.", "make it blue", "<|image|>"]
    said += [task_prompt("segmentation", golden_tokenizer)]
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]
    images = [IMAGE, OTHER, OTHER, IMAGE]
    record = {"conversations": turns, "image": images}
    got, _ = conversation_ids(record, golden_tokenizer, np.asarray)
    parts = [[None, " or ", None, ": which is wider?"], ["The first."], ["make it blue"], [None]]
    assert got.tolist() == ids_of([*parts, ["Segmentic segmentation. ", None]], images)
