"""Scores of a VQGAN: perfect for the identity, low for pictures that lost something."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lumina_jax.data.scenes.detector import detect
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import sample_scene
from lumina_jax.evals import reconstruction


def test_identity_is_perfect():
    found = reconstruction.reconstruction_scores(lambda picture: picture, 8, progress=False)
    assert found["read_as_original"]["score"] == 1.0
    assert all(
        row["score"] == row["low"] == row["high"] == reconstruction.PERFECT_DB
        for row in found["psnr_db"].values()
    )
    assert min(row["low"] for row in found["ssim"].values()) == pytest.approx(1)
    assert found["psnr_db"]["render"]["n"] == found["read_as_original"]["n"] == 8
    assert {"render", "segmentation", "depth", "normals", "pose", "boxes"} == set(found["psnr_db"])


def test_blur_lowers_both_scores():
    def blur(picture):
        return ndimage.gaussian_filter(picture, (9, 9, 0))

    found = reconstruction.reconstruction_scores(blur, 8, progress=False)
    psnr = found["psnr_db"]["render"]
    assert (
        psnr["low"] < psnr["score"] < psnr["high"] < 30 and found["read_as_original"]["score"] < 0.5
    )


def test_psnr_equals_the_formula():
    first = np.zeros((4, 4, 3), np.uint8)
    assert reconstruction.psnr_db(first, first + 255) == pytest.approx(0)
    assert reconstruction.psnr_db(first, first + 51) == pytest.approx(13.979, abs=1e-3)


def test_ssim_falls_with_blur_and_is_one_of_the_same():
    picture = render(sample_scene(np.random.default_rng(0), 96, 96), 96, 96)
    blurred = ndimage.gaussian_filter(picture, (3, 3, 0))
    assert reconstruction.ssim(picture, picture) == pytest.approx(1)
    assert reconstruction.ssim(picture, blurred) < 0.95


@pytest.mark.parametrize("change", ["colour", "place", "missing", "background"])
def test_reads_the_same_sees_a_change(change):
    scene = sample_scene(np.random.default_rng(0), 128, 128, kind="two")
    first, second = scene.objects
    other = {
        "colour": replace(scene, objects=(replace(first, colour="cyan"), second)),
        "place": replace(scene, objects=(replace(first, x=first.x - 8 / 128), second)),
        "missing": replace(scene, objects=(second,)),
        "background": replace(scene, background="moss" if scene.background != "moss" else "clay"),
    }[change]
    assert first.colour != "cyan" and first.x - first.radius - 8 / 128 > -0.5
    seen = [detect(render(each, 128, 128)) for each in (scene, scene, other)]
    assert reconstruction.reads_the_same(seen[0], seen[1], 128)
    assert not reconstruction.reads_the_same(seen[0], seen[2], 128)
