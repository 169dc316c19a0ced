"""Edits: the change that was asked for, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.scenes.edits import Edit, edits
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import Scene, sample_scene
from lumina_jax.evals.tasks.common import Truth
from lumina_jax.evals.tasks.edits import NO_EDIT, EditScore, score_edit, summarise_edits

SIZE = (96, 96)
BEFORE = sample_scene(np.random.default_rng(3), *SIZE, kind="two")
EDITS = {each.kind: each for each in edits(BEFORE, np.random.default_rng(5), 96.0)}


def truth(edit: Edit) -> Truth:
    return Truth(edit.scene, SIZE, before=BEFORE, kind=edit.kind)


def score(edit: Edit, painted: Scene) -> EditScore:
    return score_edit(truth(edit), render(painted, *SIZE))


@pytest.mark.parametrize("kind", list(EDITS))
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
    half = replace(moved, x=(moved.x + old.x) / 2, y=(moved.y + old.y) / 2)
    step = max(abs(moved.x - old.x), abs(moved.y - old.y)) / 2
    rest = tuple(thing for thing in BEFORE.objects if thing is not old)
    assert score(edit, replace(BEFORE, objects=(*rest, half))).score == (step >= 0.075)


def test_something_else_in_its_place_is_not_removed():
    edit = EDITS["remove"]
    gone = next(thing for thing in BEFORE.objects if thing not in edit.scene.objects)
    other = replace(gone, colour="cyan" if gone.colour != "cyan" else "red")
    assert not score(edit, replace(BEFORE, objects=(*edit.scene.objects, other))).score


def test_no_edit_asks_for_the_same_picture():
    same = Edit(NO_EDIT, "no edit", BEFORE)
    assert score(same, BEFORE).all_right
    assert not score(same, EDITS["recolour"].scene).score


def test_another_scene_scores_little():
    others = [sample_scene(np.random.default_rng(seed), *SIZE) for seed in range(10, 18)]
    edits_of = [EDITS[kind] for kind in ("recolour", "reshape", "add")]
    found = summarise_edits([score(each, other) for each in edits_of for other in others])
    assert found["score"] < 0.2 and found["preserved"]["score"] < 0.2


def test_a_truth_without_its_scene_before_is_refused():
    with pytest.raises(ValueError, match="without the scene before"):
        score_edit(Truth(BEFORE, SIZE, kind="move"), render(BEFORE, *SIZE))
