"""Pictures of scenes: scale, light, order, and a camera that obeys its closed form."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.scenes.geometry import keypoints, relief
from lumina_jax.data.scenes.maps import depth_map, instance_map
from lumina_jax.data.scenes.render import (
    AMBIENT,
    BACKGROUND_RGB,
    COLOUR_RGB,
    camera_matrix,
    render,
)
from lumina_jax.data.scenes.scene import (
    ARMS,
    BACKGROUNDS,
    COLOURS,
    LEGS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    sample_scene,
)

LOOKS = [(shape, None) for shape in SHAPES if shape != "figure"]
LOOKS += [("figure", (left, right, legs)) for left in ARMS for right in ARMS for legs in LEGS]


def one(shape: str, colour: str = "red", x: float = 0.0, y: float = 0.0, **options: str) -> Scene:
    """A large object on a square canvas."""
    pose = ("down", "up", "apart") if shape == "figure" else None
    item = SceneObject(shape, colour, "large", x, y, SIZES["large"], pose)
    return Scene(1.0, 1.0, options.get("background", "slate"), (item,), "single")


@pytest.mark.parametrize("shape, pose", LOOKS)
def test_silhouette_fills_its_radius_and_stays_within(shape, pose):
    u, v = np.meshgrid(*2 * [np.linspace(-1.3, 1.3, 261)])
    distance, height = relief(shape, u, v, pose)
    reach = np.hypot(u, v)[distance <= 0].max()
    assert 0.97 <= reach <= 1.001
    assert (height[distance > 0.01] == 0).all() and (height[distance < -0.03] > 0).all()


def test_silhouettes_are_far_apart_from_each_other():
    u, v = np.meshgrid(*2 * [np.linspace(-1, 1, 101)])
    masks = {look: relief(look[0], u, v, look[1])[0] <= 0 for look in LOOKS}
    for (shape, _), a in masks.items():
        for (other, _), b in masks.items():
            assert shape == other or (a & b).sum() / (a | b).sum() < 0.82, (shape, other)


@pytest.mark.parametrize("canvas", [(128, 128), (160, 96), (64, 128), (97, 131)])
def test_picture_has_the_asked_size(canvas):
    scene = sample_scene(np.random.default_rng(0), *canvas)
    picture = render(scene, *canvas)
    assert picture.shape == (canvas[1], canvas[0], 3) and picture.dtype == np.uint8


def test_double_size_averaged_equals_single_size():
    rng = np.random.default_rng(2)
    for _ in range(8):
        scene = sample_scene(rng, 128, 96, reserved=True)
        small = render(scene, 128, 96).astype(float)
        large = render(scene, 256, 192).reshape(96, 2, 128, 2, 3).mean(axis=(1, 3))
        assert np.abs(small - large).mean() < 0.6
        assert np.quantile(np.abs(small - large), 0.999) < 30  # steep rims and ridges


@pytest.mark.parametrize("shape", SHAPES)
def test_light_comes_from_the_upper_left_and_stays_moderate(shape):
    picture = render(one(shape, "white"), 128, 128).astype(float)
    inside = instance_map(one(shape), 128, 128) == 0
    rows, columns = np.nonzero(inside)
    shade = picture[rows, columns, 0] / COLOUR_RGB["white"][0]
    upper_left = (columns - 64) + (rows - 64) < 0
    assert shade[upper_left].mean() > shade[~upper_left].mean() + 0.04
    assert np.quantile(shade, 0.1) >= AMBIENT - 0.12 and shade.max() <= 1.1


def test_colours_are_clear_of_each_other_and_of_every_background():
    assert set(COLOUR_RGB) == set(COLOURS) and set(BACKGROUND_RGB) == set(BACKGROUNDS)
    shades = np.linspace(0.65, 1.08, 20)[:, None]
    lines = {name: shades * np.array(rgb) for name, rgb in COLOUR_RGB.items()}
    for name, line in lines.items():
        for other, second in lines.items():
            apart = np.linalg.norm(line[:, None] - second[None], axis=-1).min()
            assert name == other or apart > 45, (name, other)
        for background, (top, bottom) in BACKGROUND_RGB.items():
            ground = np.linspace(top, bottom, 10)
            apart = np.linalg.norm(line[:, None] - ground[None], axis=-1).min()
            assert apart > 25, (name, background)


def test_later_objects_cover_earlier_ones():
    scene = one("dome", "red")
    both = replace(scene, objects=(scene.objects[0], one("slab", "blue").objects[0]))
    centre = render(both, 128, 128)[64, 64]
    assert centre[2] > centre[0]


@pytest.mark.parametrize("yaw, pitch", [(15, 0), (-15, 0), (0, 15), (10, -12)])
@pytest.mark.parametrize("shape", ["gem", "pyramid"])
def test_apex_appears_where_the_closed_form_puts_it(shape, yaw, pitch):
    scene = one(shape, x=0.125, y=-0.125)
    item = scene.objects[0]
    apex = relief(shape, *np.zeros((2, 1), np.float32))[1][0] * item.radius
    expected = camera_matrix(yaw, pitch) @ np.array([item.x, item.y, apex])
    if yaw > 0 and pitch == 0:
        assert expected[0] > item.x * np.cos(np.radians(yaw))  # near points move to the right
    rows, columns = np.mgrid[0:128, 0:128]
    seen = np.stack([(columns + 0.5) / 128 - 0.5, (rows + 0.5) / 128 - 0.5], axis=-1)
    depth = depth_map(scene, 128, 128, yaw, pitch)
    height = np.concatenate([seen, depth[..., None]], axis=-1) @ camera_matrix(yaw, pitch)[:, 2]
    row, column = np.unravel_index(height.argmax(), height.shape)
    assert np.abs(seen[row, column] - expected[:2]).max() * 128 <= 1.5
    assert abs(height.max() - apex) < 0.02


def test_barely_turned_camera_sees_the_frontal_picture():
    scene = sample_scene(np.random.default_rng(3), 128, 96)
    turned = render(scene, 128, 96, yaw_deg=0.01).astype(float)
    assert np.abs(turned - render(scene, 128, 96)).mean() < 1.0


def test_turned_camera_hides_what_lies_behind_a_relief():
    steep = replace(one("gem").objects[0], radius=0.3)
    scene = replace(one("gem"), objects=(steep,))
    frontal, turned = (instance_map(scene, 128, 128, yaw) == 0 for yaw in (0, 20))
    spans = [np.flatnonzero(seen[64]) for seen in (frontal, turned)]
    assert len(spans[0]) == pytest.approx(2 * 0.3 * 128, abs=2)
    assert len(spans[1]) == pytest.approx(2 * 0.3 * 128 * np.cos(np.radians(20)), abs=2)
    ring = instance_map(one("ring"), 128, 128, 20)[44:84, 44:84] == -1
    whole = instance_map(one("ring"), 128, 128)[44:84, 44:84] == -1
    assert ring.sum() < 0.98 * np.cos(np.radians(20)) * whole.sum()  # its near side hides some


def test_camera_turned_too_far_is_refused():
    with pytest.raises(ValueError, match="yaw 25.*at most 20"):
        render(one("dome"), 128, 128, yaw_deg=25)


def test_canvas_of_another_aspect_is_refused():
    with pytest.raises(ValueError, match="160x96 px for a scene of 1.000x1.000"):
        render(one("dome"), 160, 96)


def test_figure_without_a_pose_is_refused():
    with pytest.raises(ValueError, match="figure without a pose"):
        relief("figure", np.zeros(1), np.zeros(1))


def test_left_and_right_are_as_seen():
    joints = keypoints(("up", "down", "apart"))
    assert joints["left_hand"][0] < 0 < joints["right_hand"][0]
    assert joints["left_hand"][1] < joints["right_hand"][1]
