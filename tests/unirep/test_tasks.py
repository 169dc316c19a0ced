"""Every template fills, is recognised, and asks for what the original asks for."""

import random
import re
import string
import time

import pytest

from lumina_jax.unirep.tasks import (
    TASKS,
    Task,
    find_task,
    template_phrases,
    template_words,
    text_to_image,
)

VALUES = {"width": 96, "height": 64, "views": 16}


def filled(name: str) -> str:
    """The prompt of a task with something in every blank."""
    task = TASKS[name]
    return task.prompt(**{field: VALUES.get(field, "a red {circle}") for field in task.fields})


@pytest.mark.parametrize("name", TASKS)
def test_every_template_fills_and_matches_its_own_prompt(name):
    prompt = filled(name)
    assert TASKS[name].matches(prompt)
    assert prompt.count("<|image|>") == TASKS[name].num_images


@pytest.mark.parametrize("name", [n for n in TASKS if template_words(TASKS[n].template)])
def test_every_task_with_words_of_its_own_is_found_by_its_prompt(name):
    assert find_task(filled(name)) == name


def test_free_text_belongs_to_no_task():
    assert find_task("make it blue <|image|>") is None
    assert find_task("Semantic segmentation.") is None
    assert find_task("No depth estimation. Depth estimation. <|image|>") is None


@pytest.mark.parametrize(
    "template", ["{a}", "b{a}", "{a}b", "a{x}b{y}c", "{x}a{y}a{z}", "ab{x}{y}b"]
)
def test_blanks_are_filled_as_a_pattern_would_fill_them(template):
    blanks = [".+" if name else "" for _, name, *_ in string.Formatter().parse(template)]
    words = [re.escape(literal) for literal, *_ in string.Formatter().parse(template)]
    pattern = re.compile("".join(sum(zip(words, blanks, strict=True), ())), re.DOTALL)
    draw, found = random.Random(0), set()
    for _ in range(2000):
        prompt = "".join(draw.choices("abc\n", k=draw.randrange(9)))
        fits = Task(template).matches(prompt)
        assert fits == bool(pattern.fullmatch(prompt)), prompt
        found.add(fits)
    assert found == {True, False}


def test_a_long_prompt_of_repeated_words_takes_no_time():
    repeated = " object views of 1x" * 10_000 + "2"
    start = time.perf_counter()
    assert find_task("Generate 1" + repeated) is None
    assert time.perf_counter() - start < 1


def test_text_to_image_equals_the_golden_prompt(golden):
    assert text_to_image(96, 64, "a red circle") == golden.prompt


def test_the_released_spelling_of_segmentation_is_accepted():
    assert find_task("Segmentic segmentation. <|image|>") == "segmentation"
    assert filled("segmentation") == "Semantic segmentation. <|image|>"


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("depth", "Depth estimation. <|image|>"),
        ("normals", "Surface normal estimation. <|image|>"),
        ("pose", "Human pose estimation. <|image|>"),
        ("detection", "Detect: a red {circle} <|image|>"),
        ("edit", "a red {circle} <|image|>"),
        ("describe", "Describe the image in detail. <|image|>"),
        (
            "text_to_image_any_size",
            "Generate an image according to the following prompt:\na red {circle}",
        ),
        (
            "image_condition",
            "Generate an image according to the provided image, and according to the following caption:\n"
            "a red {circle} <|image|>",
        ),
        (
            "multi_view",
            "Generate 16 object views of 96x64 according to the following prompt: a red {circle}",
        ),
    ],
)
def test_prompts_equal_the_published(name, prompt):
    assert filled(name) == prompt


# (temperature, guidance, image_top_k, text_top_k): of the paper's appendix F for what paints from words alone, of
# demo_image2image for what shows the model a picture, of demo_freeform for chats.
PAPER, IMAGE_TO_IMAGE, FREEFORM = (1.0, 4.0, 2000, 5), (1.0, 1.0, 200, 5), (1.0, 1.0, 2000, 5)
PUBLISHED = {
    "text_to_image": PAPER,
    "text_to_image_any_size": PAPER,
    "multi_view": PAPER,
    "image_condition": IMAGE_TO_IMAGE,
    "segmentation": IMAGE_TO_IMAGE,
    "depth": IMAGE_TO_IMAGE,
    "normals": IMAGE_TO_IMAGE,
    "pose": IMAGE_TO_IMAGE,
    "detection": IMAGE_TO_IMAGE,
    "describe": IMAGE_TO_IMAGE,
    "question": IMAGE_TO_IMAGE,
    "edit": IMAGE_TO_IMAGE,
    "next_edit": IMAGE_TO_IMAGE,
    "chat": FREEFORM,
}


def test_settings_equal_the_published():
    found = {
        name: (row.temperature, row.guidance, row.image_top_k, row.text_top_k)
        for name, row in TASKS.items()
    }
    assert found == PUBLISHED
    assert {n for n, t in TASKS.items() if t.answer == "text"} == {"describe", "question", "chat"}
    assert {n: t.num_answer_images for n, t in TASKS.items() if t.num_answer_images > 1} == {
        "multi_view": 16
    }


def test_missing_unknown_and_empty_values_are_refused():
    with pytest.raises(ValueError, match="want phrase, got nothing"):
        TASKS["detection"].prompt()
    with pytest.raises(ValueError, match="want nothing, got phrase"):
        TASKS["depth"].prompt(phrase="a")
    with pytest.raises(ValueError, match="phrase is empty"):
        TASKS["detection"].prompt(phrase=" ")
    with pytest.raises(ValueError, match="empty prompt"):
        text_to_image(64, 64, "")


def test_phrases_hold_the_words_and_no_placeholder():
    phrases = template_phrases()
    assert {"Generate an image of ", " according to the following prompt:\n", "Detect: "} <= set(
        phrases
    )
    assert not any("<" in phrase or "{" in phrase for phrase in phrases)
    assert len(set(phrases)) == len(phrases)
