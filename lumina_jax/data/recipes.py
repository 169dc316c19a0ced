"""How a scene becomes a training conversation: one row a task, filled into the templates of `unirep.tasks`."""

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import numpy as np

from lumina_jax.data.images import record_rng
from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.captions import Look, caption, noun
from lumina_jax.data.scenes.edits import edits
from lumina_jax.data.scenes.questions import questions
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
    """A map and a caption, answered by the render."""
    name = ("segmentation", "depth", "normals")[int(rng.integers(3))]
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
    """The render and a question, answered in words."""
    asked = questions(scene, rng)
    chosen = asked[int(rng.integers(len(asked)))]
    prompt = TASKS["question"].prompt(question=chosen.question)
    return [prompt, chosen.answer], [render(scene, *size)]


def _edit(scene: Scene, rng: np.random.Generator, size: Size) -> Turns:
    """The render and an instruction, answered by the changed picture; half go on to a second change."""
    said, images = [], [render(scene, *size)]
    num_turns = int(rng.integers(1, 3))
    for task in ("edit", "next_edit")[:num_turns]:
        possible = edits(scene, rng, sqrt(size[0] * size[1]))
        instruction = NO_EDIT
        if possible:
            change = possible[int(rng.integers(len(possible)))]
            scene, instruction = change.scene, change.instruction
        said += [TASKS[task].prompt(instruction=instruction), IMAGE_PLACEHOLDER]
        images.append(render(scene, *size))
    return said, images


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
}
