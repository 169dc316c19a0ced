"""How a scene becomes a training conversation: one row a task, filled into the templates of `unirep.tasks`."""

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import numpy as np

from lumina_jax.data.images import record_rng
from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.captions import Look, caption, noun
from lumina_jax.data.scenes.edits import edits
from lumina_jax.data.scenes.questions import Question, questions
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import (
    RESERVED_COLOURS,
    RESERVED_SHAPES,
    SHAPES,
    Scene,
    sample_scene,
)
from lumina_jax.data_config import ScenesSource
from lumina_jax.dims import pick
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER
from lumina_jax.unirep.tasks import TASKS

Size = tuple[int, int]  # (width, height) px
Turns = tuple[list[str], list[np.ndarray]]  # what is said, human first, and the images in order
Recipe = Callable[[Scene, np.random.Generator, Size], Turns]

VIEWS_YAW_DEG = (-18.0, -6.0, 6.0, 18.0)  # cameras of a multi-view answer, from left to right
MAX_QUESTIONS = 6  # of one conversation
NO_EDIT = "no edit"  # where a scene allows none: the original's probe of reconstruction
MAPS = {
    "segmentation": maps.segmentation,
    "depth": maps.depth,
    "normals": maps.normals,
    "pose": maps.pose,
}


class Conversation(NamedTuple):
    """Turns with their images as pixels, in the order of the placeholders."""

    turns: list[dict[str, str]]
    images: list[np.ndarray]
    task: str
    size: Size
    source: str


def make_conversation(source: ScenesSource, size: Size, index: int) -> Conversation:
    """Conversation `index` of a source: a pure function of its arguments."""
    scene = draw_scene(source, size, index)
    rng = record_rng(source, index, "text")
    names, weights = zip(*source.tasks, strict=True)
    task = names[int(rng.choice(len(names), p=np.array(weights) / sum(weights)))]
    said, images = pick(RECIPES, task, "task of a scenes source")(scene, rng, size)
    turns = [
        {"from": "gpt" if place % 2 else "human", "value": text} for place, text in enumerate(said)
    ]
    return Conversation(turns, images, task, size, source.name)


def draw_scene(source: ScenesSource, size: Size, index: int) -> Scene:
    """The scene of conversation `index`; of a source that `shows` a shape the first one drawn that does."""
    rng = record_rng(source, index, "scene")
    if not source.shows:
        return sample_scene(rng, *size, reserved=source.reserved)
    pick(dict.fromkeys(SHAPES), source.shows, "shape that a source shows")
    strange = {*RESERVED_SHAPES, *RESERVED_COLOURS} - {source.shows}
    while True:
        scene = sample_scene(rng, *size, reserved=True)
        seen = {name for thing in scene.objects for name in (thing.shape, thing.colour)}
        if source.shows in seen and (source.reserved or not seen & strange):
            return scene


def _text_to_image(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
    """A caption with the size, answered by the render."""
    values = {"width": size[0], "height": size[1], "caption": caption(scene, rng)}
    return [TASKS["text_to_image"].prompt(**values), IMAGE_PLACEHOLDER], [render(scene, *size)]


def _text_to_image_any_size(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
    """A caption without the size."""
    prompt = TASKS["text_to_image_any_size"].prompt(caption=caption(scene, rng))
    return [prompt, IMAGE_PLACEHOLDER], [render(scene, *size)]


def _multi_view(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
    """A caption answered by the scene from several sides."""
    values = {"width": size[0], "height": size[1], "caption": caption(scene, rng)}
    prompt = TASKS["multi_view"].prompt(views=len(VIEWS_YAW_DEG), **values)
    views = [render(scene, *size, yaw) for yaw in VIEWS_YAW_DEG]
    return [prompt, IMAGE_PLACEHOLDER * len(views)], views


def _image_condition(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
    """A map and a caption, answered by the render; skeletons only where there is a figure."""
    names = [name for name in MAPS if name != "pose" or scene.has_figure]
    name = names[int(rng.integers(len(names)))]
    prompt = TASKS["image_condition"].prompt(caption=caption(scene, rng))
    return [prompt, IMAGE_PLACEHOLDER], [MAPS[name](scene, *size), render(scene, *size)]


def _map(task: str) -> Recipe:
    """The render, answered by one of its maps."""

    def recipe(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
        answer = MAPS[task](scene, *size)
        return [TASKS[task].template, IMAGE_PLACEHOLDER], [render(scene, *size), answer]

    return recipe


def _detection(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
    """The render and the name of an object, answered by the render with its box."""
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    phrase = noun(Look(thing.shape, thing.colour), article="the")
    answer = maps.boxes_drawn(scene, *size, phrase)
    return [TASKS["detection"].prompt(phrase=phrase), IMAGE_PLACEHOLDER], [
        render(scene, *size),
        answer,
    ]


def _describe(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
    """The render, answered by a caption."""
    return [TASKS["describe"].template, caption(scene, rng)], [render(scene, *size)]


def _question(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
    """The render and a question, answered in words; then more questions about it, each of another kind."""
    first, *others = _asked(scene, rng, int(rng.integers(1, MAX_QUESTIONS + 1)))
    said = [TASKS["question"].prompt(question=first.question), first.answer]
    for each in others:
        said += [TASKS["chat"].prompt(message=each.question), each.answer]
    return said, [render(scene, *size)]


def _edit(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
    """The render and an instruction, answered by the changed picture; half go on to a second change."""
    said, images = [], [render(scene, *size)]
    num_turns = int(rng.integers(1, 3))
    for task in ("edit", "next_edit")[:num_turns]:
        scene, instruction = _changed(scene, rng, size)
        said += [TASKS[task].prompt(instruction=instruction), IMAGE_PLACEHOLDER]
        images.append(render(scene, *size))
    return said, images


def _chat(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
    """Several turns: a picture painted, or changed, then questions about it and changes in turn."""
    if rng.random() < 0.5:
        said, images = _text_to_image(scene, rng, size)
    else:
        images = [render(scene, *size)]
        scene, instruction = _changed(scene, rng, size)
        said = [TASKS["edit"].prompt(instruction=instruction), IMAGE_PLACEHOLDER]
        images.append(render(scene, *size))
    for _ in range(int(rng.integers(1, 3))):
        if len(images) < 3 and rng.random() < 0.5:
            scene, instruction = _changed(scene, rng, size)
            said += [TASKS["next_edit"].prompt(instruction=instruction), IMAGE_PLACEHOLDER]
            images.append(render(scene, *size))
        for each in _asked(scene, rng, 1):
            said += [TASKS["chat"].prompt(message=each.question), each.answer]
    return said, images


def _asked(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """Up to `count` questions of different kinds, in random order."""
    found = questions(scene, rng)
    return [found[place] for place in rng.permutation(len(found))[:count]]


def _changed(scene: Scene, rng: np.random.Generator, size: Size) -> tuple[Scene, str]:
    """The scene after a change, and the instruction for it."""
    possible = edits(scene, rng, sqrt(size[0] * size[1]))
    if not possible:
        return scene, NO_EDIT
    change = possible[int(rng.integers(len(possible)))]
    return change.scene, change.instruction


RECIPES: dict[str, Recipe] = {
    "text_to_image": _text_to_image,
    "text_to_image_any_size": _text_to_image_any_size,
    "multi_view": _multi_view,
    "image_condition": _image_condition,
    **{task: _map(task) for task in MAPS},
    "detection": _detection,
    "describe": _describe,
    "question": _question,
    "edit": _edit,
    "chat": _chat,
}
