"""Prompts painted from words alone, and for each a scene that it describes: the true answer of its ceiling."""

from dataclasses import replace
from functools import cache

import numpy as np

from lumina_jax.data.scenes.scene import (
    ARMS,
    LEGS,
    Scene,
    SceneObject,
    relation,
    sample_scene,
)
from lumina_jax.evals.prompts import Include, Prompt, eval_prompts


@cache
def prompts_of(per_category: int) -> tuple[Prompt, ...]:
    """The prompts of the six categories, in the order of CATEGORIES."""
    return tuple(eval_prompts(per_category))


def scene_of_prompt(prompt: Prompt, rng: np.random.Generator) -> Scene:
    """A scene that shows what a prompt asks and nothing else, at its size."""
    wanted = [include for include in prompt.include for _ in range(include.count)]
    kind = {1: "single", 2: "two"}.get(len(wanted), "count")
    if prompt.category == "counting":
        kind = "count"
    while True:
        scene = sample_scene(rng, prompt.width_px, prompt.height_px, kind=kind, allow_held_out=True)
        if len(scene.objects) != len(wanted):
            continue
        if prompt.relation is not None:
            first, where, second = prompt.relation
            if relation(scene.objects[first], scene.objects[second]) != where:
                continue
        colour = scene.objects[0].colour
        objects = tuple(
            _looking(thing, include, colour if kind == "count" else thing.colour, rng)
            for thing, include in zip(scene.objects, wanted, strict=True)
        )
        background = prompt.background or scene.background
        return replace(scene, objects=objects, background=background)


def _looking(
    thing: SceneObject, include: Include, colour: str, rng: np.random.Generator
) -> SceneObject:
    """An object in the look that is asked for; what is left open stays."""
    pose = None
    if include.shape == "figure":
        pose = (str(rng.choice(ARMS)), str(rng.choice(ARMS)), str(rng.choice(LEGS)))
    return replace(thing, shape=include.shape, colour=include.colour or colour, pose=pose)
