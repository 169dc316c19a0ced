"""Labels and answer images agree with each other, with the geometry and with the camera."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.render import camera_matrix, render
from lumina_jax.data.scenes.scene import (
    ARMS,
    LEGS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    sample_scene,
)

RED_DOME = SceneObject("dome", "red", "medium", -0.25, -0.25, SIZES["medium"])
BLUE_RING = SceneObject("ring", "blue", "small", 0.25, -0.25, SIZES["small"])
BLUE_DOME = SceneObject("dome", "blue", "small", 0.25, 0.25, SIZES["small"])
FIGURE = SceneObject(
    "figure", "green", "medium", -0.25, 0.25, SIZES["medium"], ("up", "out", "apart")
)
SCENE = Scene(1.0, 1.0, "fog", (RED_DOME, BLUE_RING, BLUE_DOME, FIGURE), "mixed")
CAMERAS = [(0, 0), (15, 0), (-10, 12)]


def outside_joints(scene: Scene, yaw: float, pitch: float) -> list[str]:
    """The joints of the scene's first object that are not seen on it."""
    seen = maps.instance_map(scene, 128, 128, yaw, pitch)
    joints = maps.keypoints(scene, 128, 128, yaw, pitch)[0]
    return [name for name, (x, y) in joints.items() if seen[int(y), int(x)] != 0]


@pytest.mark.parametrize("legs", LEGS)
def test_joints_lie_inside_the_silhouette_in_every_pose(legs):
    for left in ARMS:
        for right in ARMS:
            item = replace(FIGURE, pose=(left, right, legs))
            assert not outside_joints(replace(SCENE, objects=(item,)), 0, 0), (left, right)


@pytest.mark.parametrize("yaw, pitch", [(18, 0), (-10, 12)])
def test_joints_lie_inside_the_silhouette_of_a_turned_view(yaw, pitch):
    for left, right in (("up", "out"), ("down", "up")):
        item = replace(FIGURE, pose=(left, right, "apart"))
        assert not outside_joints(replace(SCENE, objects=(item,)), yaw, pitch)


@pytest.mark.parametrize("yaw, pitch", CAMERAS)
def test_normals_are_unit_vectors(yaw, pitch):
    normal = maps.normal_map(SCENE, 128, 128, yaw, pitch)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
    expected = np.tile(camera_matrix(yaw, pitch)[:, 2], (128, 1))
    np.testing.assert_allclose(normal[0], expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_follow_the_gradient_of_the_depth(shape):
    pose = ("up", "out", "apart") if shape == "figure" else None
    item = SceneObject(shape, "red", "large", 0.0, 0.0, SIZES["large"], pose)
    scene = Scene(1.0, 1.0, "slate", (item,), "single")
    depth = maps.depth_map(scene, 256, 256) * 256
    down, right = np.gradient(depth)
    slope = np.stack([-right, -down, np.ones_like(depth)], axis=-1)
    slope /= np.linalg.norm(slope, axis=-1, keepdims=True)
    inside = maps.instance_map(scene, 256, 256) == 0
    for axis in (0, 1):
        for shift in (-3, 3):
            inside &= np.roll(inside, shift, axis)
    cosine = (slope * maps.normal_map(scene, 256, 256)).sum(axis=-1)[inside]
    assert np.median(cosine) > 0.9995
    assert np.quantile(cosine, 0.1) > 0.98  # ridges: one-sided against central differences


def test_depth_is_zero_on_the_background_and_the_relief_above_it():
    depth = maps.depth_map(SCENE, 128, 128)
    seen = maps.instance_map(SCENE, 128, 128)
    assert (depth[seen == -1] == 0).all() and depth.min() == 0
    np.testing.assert_allclose(depth[32, 32], 0.7 * SIZES["medium"], rtol=0.01)
    assert set(np.unique(seen)) == {-1, 0, 1, 2, 3}


def test_boxes_bound_the_visible_silhouettes():
    covered = replace(RED_DOME, x=0.25 - 0.2, y=-0.25)
    scene = replace(SCENE, objects=(covered, BLUE_RING, replace(BLUE_RING, x=0.25)))
    found = maps.boxes(scene, 128, 128)
    radius_px = SIZES["medium"] * 128
    assert found[0] == pytest.approx(
        (38 + 32.4 - radius_px, 32 - radius_px, 70.4 + radius_px, 32 + radius_px), abs=1.5
    )
    assert found[1] is None  # exactly behind the third object
    for index in (0, 2):
        x0, y0, x1, y1 = found[index] or (0, 0, 0, 0)
        seen = maps.instance_map(scene, 128, 128) == index
        assert seen[y0:y1, x0:x1].sum() == seen.sum()
        assert all(edge.any() for edge in (seen[y0], seen[y1 - 1], seen[:, x0], seen[:, x1 - 1]))


def test_boxes_move_with_the_camera():
    frontal, turned = (maps.boxes(SCENE, 128, 128, yaw)[2] for yaw in (0, 20))
    assert frontal is not None and turned is not None
    assert turned[2] - turned[0] < frontal[2] - frontal[0] + 2
    middle = (turned[0] + turned[2]) / 2
    expected = 64 + 128 * (0.25 * np.cos(np.radians(20)))
    assert expected - 1 < middle < expected + 0.7 * 0.145 * 128 * np.sin(np.radians(20)) + 1


def test_segmentation_shows_the_legend_inside_every_object():
    picture = maps.segmentation(SCENE, 128, 128)
    for x, y, name in ((32, 32, "dome"), (96, 96, "dome"), (82, 32, "ring"), (32, 96, "figure")):
        assert tuple(picture[y, x]) == maps.SEGMENT_RGB[name]
    assert tuple(picture[64, 64]) == maps.SEGMENT_RGB["background"]
    assert len(set(maps.SEGMENT_RGB.values())) == len(SHAPES) + 1 == len(maps.SEGMENT_RGB)


@pytest.mark.parametrize("yaw, pitch", [(0, 0), (8, -8)])
def test_depth_image_inverts_to_the_depth(yaw, pitch):
    far, near = maps.DEPTH_RANGE
    picture = maps.depth(SCENE, 128, 128, yaw, pitch)[..., 0] / 255 * (near - far) + far
    depth = maps.depth_map(SCENE, 128, 128, yaw, pitch)
    off = np.abs(picture - depth)[(depth > far) & (depth < near)]
    assert np.median(off) < (near - far) / 255
    assert np.quantile(off, 0.97) < 0.01


@pytest.mark.parametrize("yaw, pitch", CAMERAS)
def test_normal_image_inverts_to_the_normals(yaw, pitch):
    picture = maps.normals(SCENE, 128, 128, yaw, pitch) / 127.5 - 1
    off = np.abs(picture - maps.normal_map(SCENE, 128, 128, yaw, pitch)).max(axis=-1)
    assert np.median(off) < 1.5 / 127.5 and np.quantile(off, 0.85) < 0.1


def test_boxes_are_drawn_around_what_is_asked_for_only():
    plain = render(SCENE, 128, 128)
    drawn = maps.boxes_drawn(SCENE, 128, 128, "the blue dome")
    x0, y0, x1, y1 = maps.boxes(SCENE, 128, 128)[2] or (0, 0, 0, 0)
    np.testing.assert_array_equal(drawn[y0:y1, x0:x1], plain[y0:y1, x0:x1])
    changed = (drawn != plain).any(axis=-1)
    rows, columns = np.nonzero(changed)
    line = maps.BOX_PX
    assert (rows.min(), rows.max() + 1) == (y0 - line, y1 + line)
    assert (columns.min(), columns.max() + 1) == (x0 - line, x1 + line)
    assert tuple(drawn[y0 - 1, x0 - 1]) == maps.BOX_RGB


@pytest.mark.parametrize(
    "phrase, chosen",
    [
        ("the red dome", (0,)),
        ("all domes", (0, 2)),
        ("blue", (1, 2)),
        ("the blue ring and the green figure", (1, 3)),
        ("small objects", (1, 2)),
        ("everything", (0, 1, 2, 3)),
    ],
)
def test_phrase_selects_what_it_names(phrase, chosen):
    assert maps.select(SCENE, phrase) == chosen


@pytest.mark.parametrize("phrase", ["the red ring", "a table", ""])
def test_phrase_that_fits_nothing_is_refused(phrase):
    with pytest.raises(ValueError, match="fits no object"):
        maps.select(SCENE, phrase)


def test_pose_image_shows_bones_of_figures_on_black():
    picture = maps.pose(SCENE, 128, 128)
    joints = maps.keypoints(SCENE, 128, 128)[3]
    (x0, y0), (x1, y1) = joints["left_shoulder"], joints["left_hand"]
    middle = picture[int(y0 * 0.3 + y1 * 0.7), int(x0 * 0.3 + x1 * 0.7)]
    assert np.abs(middle - np.array(maps.BONES["left_shoulder", "left_hand"], float)).max() < 60
    assert not picture[:, 64:].any() and not picture[:64].any()
    assert not maps.pose(replace(SCENE, objects=(RED_DOME,)), 128, 128).any()


@pytest.mark.parametrize("name", list(maps.ANSWERS))
@pytest.mark.parametrize("yaw, pitch", CAMERAS)
def test_answer_images_have_the_canvas_size(name, yaw, pitch):
    scene = sample_scene(np.random.default_rng(0), 160, 96, reserved=True)
    picture = maps.ANSWERS[name](scene, 160, 96, yaw, pitch)
    assert picture.shape == (96, 160, 3) and picture.dtype == np.uint8
