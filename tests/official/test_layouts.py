"""Folders for the public scorers, read back as their loaders do."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumina_jax.official import layouts
from lumina_jax.official.prompt_sets import OfficialPrompt
from tests.official import scorers

SIDE = 8


def painted(folder: Path, count: int) -> tuple[list[Path], list[np.ndarray]]:
    """`count` different pictures on disk."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for _ in range(count)]
    files = [folder / f"{index}.png" for index in range(count)]
    for file, each in zip(files, pixels, strict=True):
        Image.fromarray(each).save(file)
    return files, pixels


def test_geneval_layout_is_what_its_loader_reads(tmp_path: Path) -> None:
    prompts = [OfficialPrompt(f"p{i}", f"{i:05d}", {"tag": "two", "n": i}) for i in range(3)]
    files, pixels = painted(tmp_path, 6)
    pictures = [files[0:2], files[2:4], files[4:6]]
    found = scorers.load_geneval(layouts.arrange("geneval", tmp_path / "scorer", prompts, pictures))
    assert sorted(found) == [0, 1, 2]
    for index, (metadata, images) in found.items():
        assert metadata == {"tag": "two", "n": index}
        np.testing.assert_array_equal(images, pixels[2 * index : 2 * index + 2])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_dpg_grid_is_cut_into_its_images(count: int, tmp_path: Path) -> None:
    files, pixels = painted(tmp_path, count)
    folder = layouts.arrange("dpg", tmp_path / "scorer", [OfficialPrompt("p", "vrd1")], [files])
    found = scorers.load_dpg(folder, SIDE, count)
    assert list(found) == ["vrd1"]
    np.testing.assert_array_equal(found["vrd1"], pixels)
    side = SIDE if count == 1 else 2 * SIDE
    assert Image.open(folder / "vrd1.png").size == (side, side)


def test_compbench_numbers_run_over_all_prompts(tmp_path: Path) -> None:
    texts = ["a tin cup", "The hat is old."]
    files, pixels = painted(tmp_path, 4)
    prompts = [OfficialPrompt(text, text) for text in texts]
    folder = layouts.arrange("compbench", tmp_path / "scorer", prompts, [files[:2], files[2:]])
    found = scorers.load_compbench(folder)
    assert [(number, prompt) for number, prompt, _ in found] == [
        (0, texts[0]),
        (1, texts[0]),
        (2, texts[1]),
        (3, texts[1]),
    ]
    np.testing.assert_array_equal([image for _, _, image in found], pixels)
    assert (folder / "samples" / "a tin cup_000001.png").is_file()


def test_layout_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    files, _ = painted(tmp_path, 2)
    prompts = [OfficialPrompt("a", "a"), OfficialPrompt("b", "b")]
    copy = layouts.shutil.copyfile

    def tear(source, target):
        if "b_" in str(target):
            raise OSError("the disk is full")
        return copy(source, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(layouts.shutil, "copyfile", tear)
        layouts.arrange("compbench", tmp_path / "scorer", prompts, [files[:1], files[1:]])
    assert not (tmp_path / "scorer").exists()
    layouts.arrange("compbench", tmp_path / "scorer", prompts, [files[:1], files[1:]])
    assert len(scorers.load_compbench(tmp_path / "scorer")) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.png", "1.png", "scorer"]


def test_results_of_a_scorer_stay(tmp_path: Path) -> None:
    files, _ = painted(tmp_path, 1)
    folder = layouts.arrange("compbench", tmp_path / "scorer", [OfficialPrompt("a", "a")], [files])
    (folder / "annotation_blip").mkdir()
    layouts.arrange("compbench", tmp_path / "scorer", [OfficialPrompt("a", "a")], [files])
    assert (folder / "annotation_blip").is_dir()
