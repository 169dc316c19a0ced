"""Views: a turned truth is right; pictures that do not turn, turn back or show something else are not."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.recipes import VIEWS_YAW_DEG
from lumina_jax.data.scenes.captions import caption
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import sample_scene
from lumina_jax.evals.tasks import views
from lumina_jax.evals.tasks.common import Truth

SIZE = (96, 96)


def truth_of(seed: int, kind: str | None = None) -> Truth:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, *SIZE, kind=kind)
    return Truth(scene, SIZE, caption=caption(scene, rng))


def turned(truth: Truth) -> list[np.ndarray]:
    return [render(truth.scene, *SIZE, yaw) for yaw in VIEWS_YAW_DEG]


TRUTH = truth_of(1, "two")
VIEWS = turned(TRUTH)


def test_true_views_are_right():
    found = views.score_views(TRUTH, VIEWS)
    assert found.score == found.asked == found.placed == 1 and found.right and found.same


@pytest.mark.slow
def test_true_views_of_many_scenes_are_right():
    truths = [truth_of(seed) for seed in range(40)]
    found = views.summarise_views([views.score_views(t, turned(t)) for t in truths])
    assert found["asked"]["score"] > 0.99 and found["all_right"]["score"] > 0.95
    assert found["score"] > 0.99


@pytest.mark.parametrize("kind", ["still", "reversed", "one differs", "one moved", "another"])
def test_wrong_views_are_not(kind):
    first, second = TRUTH.scene.objects
    other = next(c for c in ("cyan", "red", "blue") if c not in (first.colour, second.colour))
    recoloured = replace(TRUTH.scene, objects=(replace(first, colour=other), second))
    moved = replace(TRUTH.scene, objects=(replace(first, y=first.y + 8 / 96), second))
    answers = {
        "still": [render(TRUTH.scene, *SIZE)] * 4,
        "reversed": VIEWS[::-1],
        "one differs": [*VIEWS[:3], render(recoloured, *SIZE, 18)],
        "one moved": [*VIEWS[:3], render(moved, *SIZE, 18)],
        "another": turned(truth_of(2, "single")),
    }
    assert not views.score_views(TRUTH, answers[kind]).right


def test_score_is_the_share_of_the_objects_that_stay():
    first, second = TRUTH.scene.objects
    other = next(c for c in ("cyan", "red", "blue") if c not in (first.colour, second.colour))

    def last(*objects):
        return [*VIEWS[:3], render(replace(TRUTH.scene, objects=objects), *SIZE, 18)]

    assert views.score_views(TRUTH, last(replace(first, colour=other), second)).score == 0.5
    assert views.score_views(TRUTH, last(first)).score == 0.5
    assert views.score_views(TRUTH, last(second)).score == 0.5
    both_gone = last(replace(first, colour=other), replace(second, colour=other))
    assert views.score_views(TRUTH, both_gone).score == 0
    moved = last(first, replace(second, y=second.y + 8 / 96))
    assert views.score_views(TRUTH, moved).score == 0.5
    assert (
        views.score_views(TRUTH, VIEWS[:1] * 4).score == 1
    )  # `right` alone tells that they do not turn
    empty = [np.zeros_like(VIEWS[0])] * 4
    assert views.score_views(TRUTH, empty).score == 0


def test_objects_that_nobody_asked_for_cost():
    found = views.score_views(replace(TRUTH, caption="a picture of a red figure"), VIEWS)
    assert (found.score, found.placed, found.asked) == (0.5, 1, 1)


def test_another_number_of_views_is_refused():
    with pytest.raises(ValueError, match="3 views, want 4"):
        views.score_views(TRUTH, VIEWS[:3])
