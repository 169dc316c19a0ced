"""Edits change what they say and nothing else, and keep the promises of the sampler."""

from dataclasses import replace
from itertools import combinations
from math import hypot, sqrt

import numpy as np
import pytest

from lumina_jax.data.scenes.edits import EDIT_KINDS, edits
from lumina_jax.data.scenes.scene import (
    GAP,
    GRID_PX,
    RESERVED_COLOURS,
    RESERVED_SHAPES,
    held_out,
    sample_scene,
)

CANVASES = [(128, 128), (160, 96), (96, 160)]
FIELDS = {"recolour": {"colour"}, "reshape": {"shape", "pose"}, "move": {"x", "y"}}


@pytest.fixture(scope="module")
def edited():
    rng = np.random.default_rng(7)
    found = []
    for index in range(300):
        size = CANVASES[index % len(CANVASES)]
        scene = sample_scene(rng, *size)
        found += [(scene, size, e) for e in edits(scene, rng, sqrt(size[0] * size[1]))]
    return found


def changed_fields(before, after):
    """The names of the fields in which two objects differ."""
    return {name for name in vars(before) if getattr(before, name) != getattr(after, name)}


def of_kind(edited, kind):
    return [(scene, size, e) for scene, size, e in edited if e.kind == kind]


def test_every_kind_of_edit_occurs(edited):
    assert {e.kind for _, _, e in edited} == set(EDIT_KINDS)


@pytest.mark.parametrize("kind", FIELDS)
def test_edit_of_one_object_changes_that_alone(edited, kind):
    for scene, _, e in of_kind(edited, kind):
        pairs = list(zip(scene.objects, e.scene.objects, strict=True))
        changed = [(a, b) for a, b in pairs if a != b]
        assert len(changed) == 1 and changed_fields(*changed[0]) <= FIELDS[kind]
        assert e.scene.background == scene.background
        colour, shape = changed[0][0].colour, changed[0][0].shape
        assert f"the {shape}" in e.instruction or f"the {colour} {shape}" in e.instruction


def test_recolour_and_reshape_name_the_result(edited):
    for kind, field in (("recolour", "colour"), ("reshape", "shape")):
        for scene, _, e in of_kind(edited, kind):
            (new,) = [b for a, b in zip(scene.objects, e.scene.objects, strict=True) if a != b]
            assert e.instruction.endswith(f" {getattr(new, field)}.")


def test_move_goes_where_it_says(edited):
    for scene, _, e in of_kind(edited, "move"):
        ((a, b),) = [(a, b) for a, b in zip(scene.objects, e.scene.objects, strict=True) if a != b]
        dx, dy = b.x - a.x, b.y - a.y
        way = ("up" if dy < 0 else "down") if abs(dx) < 1e-6 else ("left" if dx < 0 else "right")
        assert e.instruction.endswith(f"{way}.") and min(abs(dx), abs(dy)) < 1e-6


def test_remove_and_add_change_one_object(edited):
    for scene, _, e in of_kind(edited, "remove"):
        (gone,) = set(scene.objects) - set(e.scene.objects)
        assert len(e.scene.objects) == len(scene.objects) - 1 and gone.shape in e.instruction
    for scene, _, e in of_kind(edited, "add"):
        (new,) = set(e.scene.objects) - set(scene.objects)
        assert e.scene.objects[:-1] == scene.objects
        assert f"{new.colour} {new.shape}." in e.instruction


def test_background_edit_keeps_the_objects(edited):
    for scene, _, e in of_kind(edited, "background"):
        assert e.scene == replace(scene, background=e.scene.background) != scene
        assert e.scene.background in e.instruction


def test_edited_scenes_keep_the_promises_of_the_sampler(edited):
    for scene, (width_px, height_px), e in edited:
        side_px = sqrt(width_px * height_px)
        for thing in e.scene.objects:
            assert thing.shape not in RESERVED_SHAPES and thing.colour not in RESERVED_COLOURS
            x_px, y_px = thing.x * side_px + width_px / 2, thing.y * side_px + height_px / 2
            assert (
                np.allclose([x_px % GRID_PX, y_px % GRID_PX], 0, atol=1e-6)
                or thing in scene.objects
            )
            reach = thing.radius * side_px
            assert reach <= x_px <= width_px - reach and reach <= y_px <= height_px - reach
        for a, b in combinations(e.scene.objects, 2):
            assert not held_out((a.colour, a.shape), (b.colour, b.shape))
            assert hypot(a.x - b.x, a.y - b.y) >= GAP * (a.radius + b.radius) - 1e-6


def test_edited_scenes_know_their_composition(edited):
    for _, _, e in edited:
        looks = {(o.colour, o.shape) for o in e.scene.objects}
        number = len(e.scene.objects)
        alike = {1: "single"}.get(number, "count")
        wanted = alike if len(looks) == 1 else {2: "two"}.get(number, "mixed")
        assert e.scene.kind == wanted
