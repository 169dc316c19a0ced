"""Recipes: every task's conversation is well formed, and a function of source and index."""

import numpy as np
import pytest

from lumina_jax.data.recipes import RECIPES, draw_scene, make_conversation
from lumina_jax.data_config import ScenesSource
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER
from lumina_jax.unirep.tasks import TASKS

SIZE = (96, 80)


def source_of(*tasks: str) -> ScenesSource:
    return ScenesSource("scenes", 96, 10, tasks=tuple((task, 1.0) for task in tasks))


@pytest.mark.parametrize("task", RECIPES)
def test_conversation_is_well_formed(task: str):
    for index in range(3):
        made = make_conversation(source_of(task), SIZE, index)
        text = [turn["value"] for turn in made.turns]
        assert [turn["from"] for turn in made.turns] == ["human", "gpt"] * (len(text) // 2)
        assert TASKS[task].matches(text[0])
        assert "".join(text).count(IMAGE_PLACEHOLDER) == len(made.images) >= 1
        assert all(image.shape == (80, 96, 3) for image in made.images)
        assert made.task == task and made.source == "scenes"


def test_conversation_is_a_function_of_its_arguments():
    source = source_of(*RECIPES)
    first, again = (make_conversation(source, SIZE, 5) for _ in range(2))
    assert first.turns == again.turns
    for one, other in zip(first.images, again.images, strict=True):
        np.testing.assert_array_equal(one, other)
    assert make_conversation(source, SIZE, 6).turns != first.turns


def test_tasks_are_drawn_by_weight():
    source = ScenesSource("scenes", 96, 10, tasks=(("depth", 0.0), ("segmentation", 1.0)))
    assert {make_conversation(source, SIZE, i).task for i in range(4)} == {"segmentation"}


def test_unknown_task_lists_the_choices():
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        make_conversation(source_of("deptt"), SIZE, 0)


def test_a_source_that_shows_a_shape_has_it_in_every_scene_and_nothing_else_reserved():
    source = ScenesSource("gems", 96, 10, shows="gem")
    scenes = [draw_scene(source, SIZE, index) for index in range(12)]
    shapes = [{thing.shape for thing in scene.objects} for scene in scenes]
    assert all("gem" in found and "arch" not in found for found in shapes)
    assert len(set().union(*shapes)) > 3
    assert "white" not in {thing.colour for scene in scenes for thing in scene.objects}
    assert draw_scene(source, SIZE, 3) == scenes[3]
    with pytest.raises(ValueError, match="unknown shape that a source shows 'gems'"):
        draw_scene(ScenesSource("gems", 96, 10, shows="gems"), SIZE, 0)
