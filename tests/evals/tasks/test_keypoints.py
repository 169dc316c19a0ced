"""Pose: true skeletons are read back, and a joint counts inside of the tolerance alone."""

import numpy as np
import pytest

from lumina_jax.data.scenes import geometry, maps
from lumina_jax.data.scenes.render import to_pixels
from lumina_jax.data.scenes.scene import Scene, SceneObject, sample_scene
from lumina_jax.evals.tasks import keypoints
from lumina_jax.evals.tasks.common import Truth

SIZE = (128, 128)
FIGURE = SceneObject("figure", "red", "large", 0.0, 0.0, 0.21875, ("out", "up", "apart"))
ONE = Truth(Scene(1.0, 1.0, "sand", (FIGURE,), "single"), SIZE)


def figures(number: int, size=SIZE, first: int = 0) -> list[Truth]:
    found, seed = [], first
    while len(found) < number:
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, *size, kind=["single", "two"][seed % 2], allow_held_out=True)
        seed += 1
        if scene.has_figure:
            found.append(Truth(scene, size))
    return found


def skeleton(joints: dict, without: tuple[str, ...] = ()) -> np.ndarray:
    """A picture of bones between given joints, as `maps.pose` draws them."""
    columns, rows = np.meshgrid(np.arange(128, dtype=np.float32) + 0.5, np.arange(128) + 0.5)
    picture = np.zeros((128, 128, 3), np.float32)
    for (start, end), rgb in maps.BONES.items():
        if end not in without:
            away = geometry.segment_distance(columns, rows, joints[start], joints[end])
            picture += np.clip(2.38 - away + 0.5, 0, 1)[..., None] * (np.array(rgb) - picture)
    return to_pixels(picture)


def pick_pose(truth: Truth) -> np.ndarray:
    return maps.pose(truth.scene, *truth.size)


@pytest.mark.parametrize("size", [SIZE, (160, 96), (64, 64)])
def test_true_skeletons_score_one(size):
    for truth in figures(6, size):
        found = keypoints.score_pose(truth, pick_pose(truth))
        assert found.score == 1 and found.missing == 0


def test_every_pose_is_read_to_a_pixel():
    truth = keypoints.read_joints(ONE, pick_pose(ONE))[0]
    for name, (x, y) in maps.keypoints(ONE.scene, *SIZE)[0].items():
        assert np.hypot(truth[name][0] - x, truth[name][1] - y) < 1, name


@pytest.mark.parametrize(("share", "right"), [(0.08, 10), (0.13, 9)])
def test_a_joint_counts_within_the_tolerance(share, right):
    box = maps.boxes(ONE.scene, *SIZE)[0]
    side = max(box[2] - box[0], box[3] - box[1])
    joints = dict(maps.keypoints(ONE.scene, *SIZE)[0])
    x, y = joints["left_foot"]
    joints["left_foot"] = (x, y + share * side)
    assert keypoints.score_pose(ONE, skeleton(joints)).right == right


def test_swapped_sides_are_wrong():
    joints = maps.keypoints(ONE.scene, *SIZE)[0]
    other = {"left": "right", "right": "left"}
    swapped = {
        name: joints["_".join([other.get(word, word) for word in name.split("_")])]
        for name in joints
    }
    assert keypoints.score_pose(ONE, skeleton(swapped)).right == 2  # head and neck


def test_a_bone_that_is_not_drawn_is_missing():
    picture = skeleton(maps.keypoints(ONE.scene, *SIZE)[0], without=("left_hand",))
    assert keypoints.score_pose(ONE, picture) == (0.8, 8, 10, 2, 3, 4)


def test_limbs_tell_a_random_pose_where_the_figure_is():
    rng = np.random.default_rng(0)
    guesses = [(truth, keypoints.another_pose(truth.scene, rng)) for truth in figures(12)]
    results = [keypoints.score_pose(truth, maps.pose(guess, *SIZE)) for truth, guess in guesses]
    found = keypoints.summarise_pose(results)
    assert found["score"] > 0.65 and found["limbs"]["score"] < 0.6
    assert found["limbs"]["n"] == 12
    for truth, guess in guesses:
        places = [[(o.x, o.y, o.shape) for o in each.objects] for each in (truth.scene, guess)]
        assert places[0] == places[1]


def test_random_answers_score_little():
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    assert keypoints.score_pose(ONE, noise).score <= 0.3
    assert keypoints.score_pose(ONE, np.zeros_like(noise)).missing == 10
    pairs = zip(figures(8), figures(8, first=500), strict=True)
    results = [keypoints.score_pose(truth, pick_pose(other)) for truth, other in pairs]
    assert keypoints.summarise_pose(results)["score"] < 0.3


def test_scenes_without_figures_are_refused():
    thing = SceneObject("dome", "red", "large", 0.0, 0.0, 0.2)
    with pytest.raises(ValueError, match="without a figure"):
        truth = Truth(Scene(1.0, 1.0, "sand", (thing,), "single"), SIZE)
        keypoints.score_pose(truth, np.zeros((*SIZE, 3), np.uint8))
