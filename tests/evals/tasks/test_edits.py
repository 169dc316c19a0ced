"""Edits: the change that was asked for, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.scenes.edits import EDIT_KINDS, Edit, edits
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import BACKGROUNDS, Scene, sample_scene
from lumina_jax.evals.tasks.common import Truth
from lumina_jax.evals.tasks.edits import NO_EDIT, EditScore, score_edit, summarise_edits

SIZE = (96, 96)
BEFORE = sample_scene(np.random.default_rng(3), *SIZE, kind="two")
EDITS = {each.kind: each for each in edits(BEFORE, np.random.default_rng(5), 96.0)}


def truth(edit: Edit) -> Truth:
    return Truth(edit.scene, SIZE, before=BEFORE, kind=edit.kind)


def score(edit: Edit, painted: Scene) -> EditScore:
    return score_edit(truth(edit), render(painted, *SIZE))


@pytest.mark.parametrize("kind", list(EDIT_KINDS))
def test_the_result_is_right_and_the_scene_before_is_not(kind):
    done = score(EDITS[kind], EDITS[kind].scene)
    assert done.all_right and done.untouched == (2 if kind in ("add", "background") else 1)
    undone = score(EDITS[kind], BEFORE)
    assert not undone.score and undone.kept == undone.untouched


@pytest.mark.parametrize("kind", ["recolour", "reshape", "move"])
def test_another_object_that_changed_too_is_not_kept(kind):
    after = EDITS[kind].scene
    touched = next(thing for thing in after.objects if thing not in BEFORE.objects)
    others = [o for o in ("cyan", "yellow", "red") if o not in {x.colour for x in after.objects}]
    changed = tuple(o if o is touched else replace(o, colour=others[0]) for o in after.objects)
    found = score(EDITS[kind], replace(after, objects=changed))
    assert found.score and (found.kept, found.untouched) == (0, 1) and not found.all_right


def test_a_background_that_changed_too_is_not_kept():
    other = "moss" if BEFORE.background != "moss" else "clay"
    found = score(EDITS["remove"], replace(EDITS["remove"].scene, background=other))
    assert found.score and not found.background_kept


def test_a_move_the_wrong_way_or_a_copy_is_no_success():
    edit = EDITS["move"]
    moved = next(thing for thing in edit.scene.objects if thing not in BEFORE.objects)
    old = next(thing for thing in BEFORE.objects if thing not in edit.scene.objects)
    copied = score(edit, replace(BEFORE, objects=(*BEFORE.objects, moved)))
    assert not copied.score and copied.extra == 1
    rest = tuple(thing for thing in BEFORE.objects if thing is not old)
    way = np.sign([moved.x - old.x, moved.y - old.y])
    for step, right in ((-0.15, False), (0.0, False), (0.06, False), (0.09, True), (0.15, True)):
        there = replace(old, x=old.x + step * way[0], y=old.y + step * way[1])
        assert score(edit, replace(BEFORE, objects=(*rest, there))).score is right, step


def test_something_else_in_its_place_is_not_removed():
    edit = EDITS["remove"]
    gone = next(thing for thing in BEFORE.objects if thing not in edit.scene.objects)
    other = replace(gone, colour="cyan" if gone.colour != "cyan" else "red")
    assert not score(edit, replace(BEFORE, objects=(*edit.scene.objects, other))).score


def test_no_edit_asks_for_the_same_picture():
    same = Edit(NO_EDIT, "no edit", BEFORE)
    assert score(same, BEFORE).all_right
    assert not score(same, EDITS["recolour"].scene).score


@pytest.mark.parametrize("kind", list(EDIT_KINDS))
def test_wrong_answers_are_no_success(kind):
    """Another scene, one without objects on any background, noise: of every kind of edit."""
    others = [sample_scene(np.random.default_rng(seed), *SIZE) for seed in range(10, 14)]
    empty = [replace(BEFORE, objects=(), background=name) for name in BACKGROUNDS]
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    pictures = [render(each, *SIZE) for each in (*others, *empty)]
    found = [score_edit(truth(EDITS[kind]), picture) for picture in (*pictures, noise)]
    assert not any(each.score for each in found[len(others) :])
    assert summarise_edits(found)["score"] < 0.1
    assert summarise_edits(found)["preserved"]["score"] < 0.2


def test_one_untouched_object_makes_a_background_a_success():
    edit = EDITS["background"]
    one = replace(edit.scene, objects=edit.scene.objects[:1])
    found = score(edit, one)
    assert found.score and (found.kept, found.untouched) == (1, 2) and not found.all_right


def test_a_truth_without_its_scene_before_is_refused():
    with pytest.raises(ValueError, match="without the scene before"):
        score_edit(Truth(BEFORE, SIZE, kind="move"), render(BEFORE, *SIZE))
