"""The sampler: the same mix at every area, held-out and reserved looks kept apart, nothing hidden or cut."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from math import hypot

import numpy as np
import pytest

from lumina_jax.data.scenes.maps import instance_map
from lumina_jax.data.scenes.scene import (
    GAP,
    GRID_PX,
    KINDS,
    RESERVED_COLOURS,
    RESERVED_SHAPES,
    SIZES,
    Scene,
    held_out,
    radii,
    relation,
    sample_scene,
)

CANVASES = ((96, 96), (128, 128), (160, 96), (96, 192), (256, 64))


def sampled(canvas: tuple[int, int], number: int, **options: bool) -> list[Scene]:
    """Scenes of one canvas."""
    rng = np.random.default_rng(0)
    return [sample_scene(rng, *canvas, **options) for _ in range(number)]


def held_out_pairs(scene: Scene) -> int:
    """Number of held-out pairs among a scene's objects."""
    looks = [(item.colour, item.shape) for item in scene.objects]
    return sum(held_out(a, b) for a, b in combinations(looks, 2))


@pytest.mark.parametrize("canvas", CANVASES[::2])
def test_mix_of_compositions_equals_the_table_at_every_canvas(canvas):
    counts = Counter(scene.kind for scene in sampled(canvas, 250))
    for kind, share in KINDS.items():
        assert abs(counts[kind] / 250 - share) < 0.1, kind


def test_held_out_pairs_appear_only_when_allowed():
    assert sum(held_out_pairs(scene) for scene in sampled((128, 128), 200)) == 0
    assert sum(held_out_pairs(scene) for scene in sampled((128, 128), 200, allow_held_out=True)) > 5


def test_reserved_looks_appear_only_when_asked_for():
    def reserved(scenes):
        items = [item for scene in scenes for item in scene.objects]
        return {item.shape for item in items} & {*RESERVED_SHAPES} | {
            item.colour for item in items
        } & {*RESERVED_COLOURS}

    assert not reserved(sampled((128, 128), 200))
    assert reserved(sampled((128, 128), 200, reserved=True)) == {
        *RESERVED_SHAPES,
        *RESERVED_COLOURS,
    }


@pytest.mark.parametrize("canvas", CANVASES)
def test_objects_lie_on_the_grid_inside_the_canvas_and_apart(canvas):
    width_px, height_px = canvas
    side_px = (width_px * height_px) ** 0.5
    for scene in sampled(canvas, 30, reserved=True):
        for item in scene.objects:
            x_px, y_px = item.x * side_px + width_px / 2, item.y * side_px + height_px / 2
            assert abs(x_px / GRID_PX - round(x_px / GRID_PX)) < 1e-6
            assert abs(y_px / GRID_PX - round(y_px / GRID_PX)) < 1e-6
            reach_px = item.radius * side_px
            assert reach_px < x_px < width_px - reach_px and reach_px < y_px < height_px - reach_px
        for a, b in combinations(scene.objects, 2):
            assert hypot(a.x - b.x, a.y - b.y) >= GAP * (a.radius + b.radius) - 1e-9


@pytest.mark.parametrize("side_px", [48.0, 56.5, 64.0, 93.0, 96.0, 112.95, 127.0, 128.0, 768.0])
def test_radii_are_whole_pixels_and_grow_with_the_size(side_px):
    in_px = [radius * side_px for radius in radii(side_px).values()]
    np.testing.assert_allclose(in_px, np.round(in_px), atol=1e-9)
    assert in_px[0] < in_px[1] < in_px[2]
    np.testing.assert_allclose(
        list(radii(side_px).values()), list(SIZES.values()), atol=2 / side_px
    )


def test_canvases_near_each_other_share_their_radii():
    found = {tuple(np.round(np.array([*radii(side).values()]) * side)) for side in (124, 127, 128)}
    assert found == {(20, 24, 28)}


def test_two_objects_always_show_a_clear_relation():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, 128, 128, kind="two") for _ in range(120)]
    counts = Counter(relation(*scene.objects) for scene in scenes)
    assert set(counts) == {"left of", "right of", "above", "below"}
    assert min(counts.values()) > 12


def test_at_most_a_fifth_of_an_object_is_hidden():
    for canvas in CANVASES:
        for scene in sampled(canvas, 20, reserved=True):
            seen = instance_map(scene, *canvas)
            for index, item in enumerate(scene.objects):
                whole = instance_map(replace(scene, objects=(item,)), *canvas) == 0
                assert (seen == index).sum() >= 0.8 * whole.sum()


def test_sampling_is_a_function_of_the_seed():
    first, again = sampled((160, 96), 20), sampled((160, 96), 20)
    assert first == again
    assert len(set(first)) > 15


def test_too_small_canvas_is_refused():
    with pytest.raises(ValueError, match="40x128 px.*at least 48 px"):
        sample_scene(np.random.default_rng(0), 40, 128)


def test_canvas_without_room_for_the_composition_is_refused():
    with pytest.raises(ValueError, match="no room for a scene of kind 'mixed'"):
        sample_scene(np.random.default_rng(0), 2048, 48, kind="mixed")


def test_unknown_kind_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="unknown kind of scene 'three'.*count, mixed, single"):
        sample_scene(np.random.default_rng(0), 128, 128, kind="three")
