"""The detector reads true pictures, sees every change, forgives blur, and does not see what is not there."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lumina_jax.data.scenes.detector import Detection, detect
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    SceneObject,
    radii,
    sample_scene,
)

RADII = radii(128)  # of the canvas that objects placed by hand stand on
CANVASES = ((96, 96), (128, 128), (160, 96), (96, 160), (256, 64))
ALL_CANVASES = (*CANVASES, (96, 128), (128, 64), (96, 192), (192, 192), (256, 256), (320, 192))
ALL_CANVASES += ((112, 112), (144, 112), (112, 144), (128, 96), (112, 80), (80, 112))
TOLERANCE_PX = 4
NEW_LOOKS = {"recoloured": "colour", "reshaped": "shape"}


def agrees(scene: Scene, found: Detection, canvas: tuple[int, int]) -> bool:
    """Whether a reading is the scene: background, looks, sizes and places."""
    side_px = (canvas[0] * canvas[1]) ** 0.5
    left = list(found.objects)
    for item in scene.objects:
        x_px, y_px = item.x * side_px + canvas[0] / 2, item.y * side_px + canvas[1] / 2
        fits = [
            one
            for one in left
            if (one.shape, one.colour, one.size) == (item.shape, item.colour, item.size)
            and max(abs(one.x_px - x_px), abs(one.y_px - y_px)) <= TOLERANCE_PX
        ]
        if not fits:
            return False
        left.remove(fits[0])
    return not left and found.background == scene.background


def blurred(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a tokenizer returns it: soft edges, small errors, a small shift of colour."""
    soft = ndimage.gaussian_filter(picture.astype(float), (1.0, 1.0, 0))
    soft += rng.normal(0, 4, soft.shape) + rng.normal(0, 4, 3)
    return np.clip(soft, 0, 255).astype(np.uint8)


def changed(scene: Scene, how: str, rng: np.random.Generator, canvas: tuple[int, int]) -> Scene:
    """The scene with one object removed, moved by at least its radius, recoloured or reshaped."""
    index = int(rng.integers(len(scene.objects)))
    item, objects = scene.objects[index], list(scene.objects)
    if how == "removed":
        del objects[index]
    elif how == "moved":
        step = item.radius * (1 + rng.random())
        aside = -1 if item.x > 0 else 1
        objects[index] = replace(item, x=item.x + aside * step)
    else:
        names = COLOURS if how == "recoloured" else tuple(s for s in SHAPES if s != "figure")
        name = rng.choice([n for n in names if n != getattr(item, NEW_LOOKS[how])])
        objects[index] = replace(item, **{NEW_LOOKS[how]: str(name), "pose": None})
        if how == "recoloured":
            objects[index] = replace(objects[index], pose=item.pose)
    return replace(scene, objects=tuple(objects))


def share_read(canvas: tuple[int, int], number: int, soften: bool) -> float:
    """Share of sampled pictures that are read exactly."""
    rng = np.random.default_rng(11)
    right = 0
    for _ in range(number):
        scene = sample_scene(rng, *canvas, reserved=True, allow_held_out=True)
        picture = render(scene, *canvas)
        found = detect(blurred(picture, rng) if soften else picture)
        right += agrees(scene, found, canvas)
    return right / number


def share_rejected(canvas: tuple[int, int], number: int) -> float:
    """Share of changed pictures whose reading is not the original scene."""
    rng = np.random.default_rng(12)
    hows = ("removed", "moved", "recoloured", "reshaped")
    rejected = 0
    for index in range(number):
        scene = sample_scene(rng, *canvas, reserved=True)
        other = changed(scene, hows[index % 4], rng, canvas)
        rejected += not agrees(scene, detect(render(other, *canvas)), canvas)
    return rejected / number


@pytest.mark.parametrize("canvas", CANVASES[:3] + CANVASES[4:])
def test_true_pictures_are_read_exactly(canvas):
    assert share_read(canvas, 40, soften=False) >= 0.98


@pytest.mark.parametrize("canvas", [(128, 128), (160, 96)])
def test_blurred_pictures_are_read(canvas):
    assert share_read(canvas, 30, soften=True) >= 0.95


def test_changed_pictures_are_rejected():
    assert share_rejected((128, 128), 40) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("canvas", ALL_CANVASES)
def test_rates_on_500_pictures_of_every_canvas(canvas):
    assert share_read(canvas, 500, soften=False) >= 0.99
    assert share_read(canvas, 500, soften=True) >= 0.97
    assert share_rejected(canvas, 500) >= 0.98


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_empty_picture_has_no_objects(background):
    picture = render(Scene(1.0, 1.0, background, (), "single"), 128, 128)
    assert detect(picture) == Detection((), background)


def test_noise_is_not_a_scene():
    rng = np.random.default_rng(0)
    assert detect(rng.integers(0, 256, (128, 128, 3), np.uint8)) == Detection((), "unknown")
    clouds = ndimage.gaussian_filter(rng.normal(0, 1, (128, 128, 3)), (8, 8, 0))
    clouds = 255 * (clouds - clouds.min()) / (clouds.max() - clouds.min())
    assert all(item.shape == "unknown" for item in detect(clouds.astype(np.uint8)).objects)


@pytest.mark.parametrize("shape", ["dome", "slab", "ring", "arch"])
def test_half_an_object_is_unknown(shape):
    item = SceneObject(shape, "red", "large", 0.0, 0.0, RADII["large"])
    scene = Scene(1.0, 1.0, "slate", (item,), "single")
    picture = render(scene, 128, 128)
    picture[:, :64] = render(replace(scene, objects=()), 128, 128)[:, :64]
    found = detect(picture).objects
    assert found and all(one.shape == "unknown" and one.colour == "red" for one in found)


def test_object_of_no_known_colour_is_reported_as_unknown():
    picture = render(Scene(1.0, 1.0, "night", (), "single"), 128, 128)
    picture[40:80, 40:80] = (130, 240, 20)
    (found,) = detect(picture).objects
    assert (found.shape, found.colour) == ("unknown", "unknown")
    assert (found.x_px, found.y_px) == pytest.approx((60, 60), abs=2)


def test_touching_objects_of_one_colour_are_told_apart():
    step = 0.9 * 2 * RADII["small"]
    places = [(-step, 0.0), (0.0, 0.0), (0.0, step), (step, 0.0)]
    for shape in ("dome", "slab", "ring", "cross"):
        items = [SceneObject(shape, "cyan", "small", x, y, RADII["small"]) for x, y in places]
        scene = Scene(1.0, 1.0, "moss", tuple(items), "count")
        assert agrees(scene, detect(render(scene, 128, 128)), (128, 128)), shape


def test_box_and_radius_fit_the_object():
    item = SceneObject("slab", "pink", "medium", 0.125, -0.125, RADII["medium"])
    scene = Scene(1.0, 1.0, "sand", (item,), "single")
    (found,) = detect(render(scene, 128, 128)).objects
    half = 0.742 * RADII["medium"] * 128
    assert found.box == pytest.approx((80 - half, 48 - half, 80 + half, 48 + half), abs=1.5)
    assert found.radius_px == pytest.approx(RADII["medium"] * 128)
    assert found.agreement > 0.97
