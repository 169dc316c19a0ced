"""Opening pictures and writing PNGs."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumina_jax.image_files import check_folder, check_png_path, open_image, read_metadata, save_png

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def test_save_png_round_trips_pixels_and_text(tmp_path: Path) -> None:
    notes = {"prompt": "Stern ☆\nzwei", "seed": "7"}
    path = save_png(Image.fromarray(PIXELS), tmp_path / "deep" / "a.png", notes)
    assert read_metadata(path) == notes
    np.testing.assert_array_equal(np.asarray(open_image(path)), PIXELS)


def test_save_png_keeps_the_old_file_when_writing_fails(tmp_path: Path, monkeypatch) -> None:
    path = save_png(Image.fromarray(PIXELS), tmp_path / "a.png", {"seed": "1"})

    def fail(source: str, target: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(Image.fromarray(PIXELS), path, {"seed": "2"})
    assert read_metadata(path) == {"seed": "1"}
    assert os.listdir(tmp_path) == ["a.png"]


def test_open_image_turns_a_photo_upright(tmp_path: Path) -> None:
    photo = Image.new("RGB", (6, 2))
    exif = photo.getexif()
    exif[0x0112] = 6  # orientation: rotated by 90°
    photo.save(tmp_path / "photo.jpg", exif=exif)
    assert open_image(tmp_path / "photo.jpg").size == (2, 6)


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
def test_open_image_refuses_what_is_no_image(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.png"
    if content is None:
        save_png(Image.effect_noise((64, 64), 90), path, {})
        content = path.read_bytes()[:900]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png: cannot be read as an image"):
        open_image(path)


def test_open_image_refuses_absent_files_and_odd_arrays(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png: no such image file"):
        open_image(tmp_path / "none.png")
    for array in (PIXELS.astype(np.float32), PIXELS[:, :, :2], PIXELS[:0]):
        with pytest.raises(ValueError, match="want uint8"):
            open_image(array)


def test_unwritable_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file: cannot write there \(.+\); choose another place"):
        check_folder(tmp_path / "file")
    with pytest.raises(OSError, match="cannot write there"):
        check_png_path(tmp_path / "file" / "deeper" / "a.png")
    with pytest.raises(ValueError, match=r"want a name that ends in \.png"):
        check_png_path(tmp_path / "a.jpg")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        check_png_path(tmp_path / "folder.png")


def test_check_png_path_makes_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    check_png_path(tmp_path / "a" / "b" / "c.png")
    assert list((tmp_path / "a" / "b").iterdir()) == []
