"""Pictures of strangers: what is read of every kind, and what is not even tried."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from lumina_jax.config import GridConfig
from lumina_jax.data.pretokenize import image_loading
from lumina_jax.data.pretokenize.examples import Example, FileRange, Where
from lumina_jax.data.pretokenize.image_loading import Fit, Loaded, load_examples
from tests.data.pretokenize.pictures import KINDS, bomb, encoded, jpeg, photograph, scene

FIT = Fit(GridConfig(8, 16, 4.0, 16), "uni_rep", (64,), None, 1_000_000, 1_000_000)


def load(content: bytes | FileRange, fit: Fit = FIT) -> Loaded:
    (loaded,) = load_examples([(5, Example(Where("x"), (content,)))], fit)
    assert loaded.index == 5
    return loaded


def pixels(content: bytes, fit: Fit = FIT) -> np.ndarray:
    loaded = load(content, fit)
    assert not loaded.problem
    return loaded.images[0][0].astype(np.int32)


@pytest.mark.parametrize("picture", ["scene", "chelsea.png"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_the_same_picture(kind: str, picture: str):
    image = scene(3) if picture == "scene" else photograph(picture)
    expected = pixels(encoded(image.copy(), "png")[0])
    found = pixels(encoded(image.copy(), kind)[0])
    assert found.shape == expected.shape == (48, 80, 3)
    if kind in ("grey", "sixteen"):
        expected = (expected @ [299, 587, 114] / 1000)[..., None]
    elif kind == "alpha":
        ramp = np.linspace(0, 1, expected.shape[1])[:, None]
        expected = 255 * (1 - ramp) + expected * ramp
    assert np.abs(found - expected).mean() < 8  # of 255: what JPEG and palettes lose


def test_what_is_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    large = jpeg(Image.new("RGB", (1100, 1000)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert load(bomb()).problem == "image 0: more than 1000000 pixels (--max-pixels)"
    for limit in (100, 600_000, 1_099_999):
        problem = load(large, FIT._replace(max_pixels=limit)).problem
        assert problem == f"image 0: more than {limit} pixels (--max-pixels)"
    assert "cannot be read as an image" in load(large, FIT._replace(max_pixels=1_100_000)).problem


def test_narrow_images_are_refused_before_they_are_scaled():
    thin = encoded(Image.new("RGB", (20_000, 2)), "png")[0]
    assert "too narrow, 64 px would take 320000x32" in load(thin).problem
    assert (
        "too narrow, 64 px would take 640000x64"
        in load(thin, FIT._replace(layout="chameleon")).problem
    )
    assert not load(encoded(Image.new("RGB", (2000, 20)), "png")[0]).problem


def test_a_file_that_is_no_image_or_absent_is_told(tmp_path: Path):
    assert "(no image of a known format)" in load(b"hello").problem
    assert "image 0: cannot be read as an image (it is empty)" == load(b"").problem
    absent = FileRange(str(tmp_path / "x.png"), name="x.png")
    assert load(absent).problem == "x.png: cannot be read as an image (no such file)"
    short = tmp_path / "short.tar"
    short.write_bytes(jpeg(scene(0)))
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "/dev/zero"):
        assert load(FileRange(str(tmp_path / name))).problem.endswith("image (no regular file)")
    os.truncate(short, 10**6 + 1)  # without taking room
    assert "(1000001 bytes, at most 1000000 are read)" in load(FileRange(str(short))).problem
    assert "at most 1000000 are read" in load(FileRange(str(short), 10, 2**62, ".jpg")).problem
    beyond = load(FileRange(str(short), 10, 10**6, ".jpg")).problem
    assert "the file ends after" in beyond


def test_images_of_an_example_are_decoded_one_by_one(monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []

    def noted(name: str) -> None:
        real = getattr(image_loading, name)
        monkeypatch.setattr(image_loading, name, lambda *a: (done.append(name), real(*a))[1])

    noted("_open")
    noted("_fit")
    images = (jpeg(scene(0)), jpeg(scene(1)))
    fit = FIT._replace(target_px=(64, 96))
    (loaded,) = load_examples([(0, Example(Where("x"), images))], fit)
    assert done == ["_open", "_fit", "_fit"] * 2
    assert [len(of_target) for of_target in loaded.images] == [2, 2]
    alone = load(images[1], fit).images
    for together, one in zip(loaded.images, alone, strict=True):
        np.testing.assert_array_equal(together[1], one[0])


def test_crops_are_random_by_seed_and_place_or_central():
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, :, 0] = np.arange(128)
    content = encoded(Image.fromarray(image), "png")[0]
    square = FIT._replace(grid=FIT.grid, layout="chameleon")
    assert abs(pixels(content, square)[:, :, 0].mean() - 63.5) < 1
    narrow = FIT._replace(grid=GridConfig(8, 16, 1.0, 16))  # squares alone
    means = [pixels(content, narrow._replace(crop_seed=s))[:, :, 0].mean() for s in (1, 1, 2, 3)]
    assert means[0] == means[1] and len(set(means)) == 3
    assert abs(pixels(content, narrow)[:, :, 0].mean() - 63.5) < 1
