"""Dense maps: the truth scores 1, what is wrong by a known amount scores that, another scene little."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.scene import Scene, SceneObject, sample_scene
from lumina_jax.evals.tasks import dense
from lumina_jax.evals.tasks.common import Truth

SIZE = (96, 96)


def scene(seed: int) -> Scene:
    return sample_scene(np.random.default_rng(seed), *SIZE, reserved=True, allow_held_out=True)


def slab(x: float = 0.0, shape: str = "slab") -> Scene:
    return Scene(1.0, 1.0, "sand", (SceneObject(shape, "red", "large", x, 0.0, 0.25),), "single")


@pytest.mark.parametrize("seed", range(9))
def test_true_answers_score_one(seed):
    size = [SIZE, (128, 80), (64, 64)][seed % 3]
    found = sample_scene(np.random.default_rng(seed), *size, reserved=True, allow_held_out=True)
    truth = Truth(found, size)
    assert dense.score_segmentation(truth, maps.segmentation(found, *size)).score == 1
    depth = dense.score_depth(truth, maps.depth(found, *size))
    assert depth.score == 1 and depth.abs_rel < 0.02 and depth.background == 1
    normals = dense.score_normals(truth, maps.normals(found, *size))
    assert normals.score < 0.5 and normals.background < 0.5
    assert normals.within == normals.background_within == normals.all_pixels_within == 1


@pytest.mark.parametrize("kind", ["another scene", "noise"])
def test_random_answers_score_little(kind):
    rng = np.random.default_rng(0)
    results = {"segmentation": [], "depth": [], "normals": []}
    for seed in range(8):
        truth = Truth(scene(seed), SIZE)
        for name, score in (
            ("segmentation", dense.score_segmentation),
            ("depth", dense.score_depth),
            ("normals", dense.score_normals),
        ):
            noise = rng.integers(0, 256, (96, 96, 3)).astype(np.uint8)
            other = maps.ANSWERS[name](scene(seed + 100), *SIZE)
            results[name].append(score(truth, noise if kind == "noise" else other))
    iou = dense.summarise_segmentation(results["segmentation"])
    assert iou["score"] < 0.2 and iou["low"] < iou["score"] < iou["high"]
    assert dense.summarise_depth(results["depth"])["score"] < 0.5
    assert dense.summarise_normals(results["normals"])["score"] > 30


def test_a_shift_costs_what_it_covers():
    picture = maps.segmentation(slab(), *SIZE)
    side = int((maps.instance_map(slab(), *SIZE) >= 0).any(axis=0).sum())
    scores = []
    for shift in (1, 2, 4, 8):
        found = dense.score_segmentation(Truth(slab(), SIZE), np.roll(picture, shift, axis=1))
        wrong = side * (shift - 1)  # a column of the outline is void
        assert found.confusion[2, 0] == pytest.approx(wrong, abs=side / 3)
        scores.append(found.score)
    assert 1 > scores[0] > scores[1] > scores[2] > scores[3] > 0.5


def test_a_swapped_class_costs_its_iou():
    found = replace(slab(), objects=(*slab(-0.24).objects, *slab(0.24, "cross").objects))
    picture = maps.segmentation(found, *SIZE)
    cross = (picture == maps.SEGMENT_RGB["cross"]).all(axis=-1)
    picture[cross] = maps.SEGMENT_RGB["gem"]
    result = dense.score_segmentation(Truth(found, SIZE), picture)
    assert result.score == pytest.approx(2 / 3, abs=0.01)
    summary = dense.summarise_segmentation([result])
    assert summary["classes"]["cross"] == 0 and summary["classes"]["slab"] == 1


@pytest.mark.parametrize(("factor", "right"), [(1.24, True), (1.26, False), (1 / 1.24, True)])
def test_depth_is_right_to_a_ratio_of_a_quarter(factor, right):
    """A flat grey that stands for `factor` times the depth of a slab's flat top."""
    far, near = maps.DEPTH_RANGE
    top = maps.depth_map(slab(), *SIZE)[48, 48] - far
    picture = maps.depth(slab(), *SIZE)
    flat = np.abs(maps.depth_map(slab(), *SIZE) - far - top) < 1e-4
    picture[flat] = round(top * factor / (near - far) * 255)
    inside = dense.score_depth(Truth(slab(), SIZE), picture)
    share = flat.sum() / (dense.true_classes(slab(), SIZE) > 0).sum()
    assert inside.score == pytest.approx(1.0 if right else 1 - share)
    assert inside.abs_rel == pytest.approx(share * abs(factor - 1), abs=0.01)


def test_relief_where_none_is_counts_in_the_background():
    picture = maps.depth(slab(), *SIZE)
    picture[:10] = 250
    found = dense.score_depth(Truth(slab(), SIZE), picture)
    classes = dense.true_classes(slab(), SIZE)
    ground, seen = (classes == 0).sum(), (classes != dense.VOID).sum()
    assert found.score == 1 and found.background == pytest.approx(1 - 960 / ground)
    assert found.all_pixels == pytest.approx(1 - 960 / seen)
    assert found.background_abs_rel > found.all_pixels_abs_rel > 0.3 > found.abs_rel


@pytest.mark.parametrize("spoilt", ["nothing", "objects"])
@pytest.mark.parametrize("task", ["depth", "normals"])
def test_a_worse_background_never_scores_better(task, spoilt):
    """Whatever the answer to the objects is: not the main number, nor any other."""
    score = {"depth": dense.score_depth, "normals": dense.score_normals}[task]
    lower = {"depth": {1, 3, 5}, "normals": {0, 2, 4}}[task]  # places of errors among the numbers
    truth, right = Truth(slab(), SIZE), maps.ANSWERS[task](slab(), *SIZE)
    classes = dense.true_classes(slab(), SIZE)
    if spoilt == "objects":
        right[classes > 0] = (255, 128, 128)
    before = score(truth, right)
    for value in ((150, 128, 254), (255, 255, 128), (0, 0, 0)):
        for rows in (5, 96):
            worse = right.copy()
            worse[:rows][classes[:rows] == 0] = value
            after = score(truth, worse)
            pairs = zip(before, after, strict=True)
            rises = [b - a if place in lower else a - b for place, (b, a) in enumerate(pairs)]
            assert max(rises) <= 1e-9 and before[:2] == after[:2]


@pytest.mark.parametrize(("degrees", "right"), [(11, True), (11.5, False)])
def test_normals_turned_by_a_known_angle(degrees, right):
    angle = np.radians(degrees)
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    truth = Truth(slab(), SIZE)
    flat = (maps.normal_map(slab(), *SIZE) == (0, 0, 1)).all(axis=-1)
    picture = maps.normals(slab(), *SIZE)
    picture[flat] = np.round((turn @ (0, 0, 1) + 1) * 127.5)
    found = dense.score_normals(truth, picture)
    assert found.background_within == (1.0 if right else 0.0)
    assert found.background == pytest.approx(degrees, abs=0.4)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"uint8\[64, 64, 3\], want uint8\[96, 96, 3\]"):
        dense.score_depth(Truth(slab(), SIZE), np.zeros((64, 64, 3), np.uint8))
