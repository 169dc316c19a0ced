"""Benchmarks' prompts painted by a tiny random model: as alone, resumed, and refused where a scorer could not read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumina_jax.config import SampleConfig
from lumina_jax.official import painting
from lumina_jax.official.painting import Job, check_job, paint_benchmark
from lumina_jax.serving.image_folder import ImageFolder
from lumina_jax.serving.offline import Painted
from tests.official import scorers

SETTINGS = SampleConfig(guidance=2.0, image_top_k=30)
SIZE = (16, 16)
PROMPTS = ("a red star", "It is red.")


@pytest.fixture(scope="module")
def metadata(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("geneval") / "evaluation_metadata.jsonl"
    lines = [{"tag": "colors", "include": [], "prompt": prompt} for prompt in PROMPTS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def paint(small_lumina, metadata: Path):
    """Two images a prompt, two at a time."""

    def run(out: Path, first_seed: int = 7, **options):
        job = Job("geneval", metadata, 2, SIZE, first_seed)
        return paint_benchmark(small_lumina, job, out, settings=SETTINGS, batch=2, **options)

    return run


def colours(model, lines, source, folder, **options) -> Painted:
    """In place of the painter: every line's image is one colour that tells its seed."""
    folder.mkdir(exist_ok=True)
    for line in lines:
        Image.new("RGB", line.size, (line.seed, 0, 0)).save(folder / line.file)
    return Painted(len(lines), len(lines), 0)


def test_painted_images_are_laid_out_in_the_order_of_their_seeds(
    paint, tmp_path, monkeypatch, small_lumina
) -> None:
    monkeypatch.setattr(painting, "paint_lines", colours)
    assert paint(tmp_path) == (4, 4, 0)
    found = scorers.load_geneval(tmp_path / "scorer")
    assert [found[i][0]["prompt"] for i in (0, 1)] == list(PROMPTS)
    assert [int(image[0, 0, 0]) for i in (0, 1) for image in found[i][1]] == [7, 8, 9, 10]
    notes = json.loads((tmp_path / "run.json").read_text())
    assert (notes["seeds"], notes["size"], notes["images_per_prompt"]) == ([7, 10], "16x16", 2)
    assert notes["prompts"]["number"] == 2 and notes["checkpoint"] == small_lumina.checkpoint
    assert (notes["settings"]["guidance"], notes["settings"]["image_top_k"]) == (2.0, 30)
    assert notes["versions"]["jax"] and "commit" in notes


def test_nothing_is_laid_out_before_all_is_painted(paint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(painting, "paint_lines", lambda *a, **k: Painted(3, 4, 2))
    assert paint(tmp_path) == (3, 4, 2)
    assert not (tmp_path / "scorer").exists()


def test_folder_of_another_run_is_refused(paint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(painting, "paint_lines", colours)
    paint(tmp_path)
    before = files(tmp_path)
    assert paint(tmp_path, resume=True) == (4, 4, 0)
    assert files(tmp_path) == before
    with pytest.raises(ValueError, match="is not empty; name a new folder"):
        paint(tmp_path)
    with pytest.raises(ValueError, match=r"was begun with other prompts, seeds \(run.json\)"):
        paint(tmp_path, first_seed=8, resume=True)


@pytest.fixture(scope="module")
def whole(paint, tmp_path_factory) -> Path:
    """What a run that nothing disturbs writes."""
    out = tmp_path_factory.mktemp("out")
    assert paint(out) == (4, 4, 0)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_every_image_is_the_models_own_of_its_seed(whole, small_lumina) -> None:
    found = scorers.load_geneval(whole / "scorer")
    assert [found[i][0]["prompt"] for i in (0, 1)] == list(PROMPTS)
    pixels = [image for i in (0, 1) for image in found[i][1]]
    how = {"guidance": 2.0, "image_top_k": 30}
    own = small_lumina.generate([PROMPTS[0], PROMPTS[1]], SIZE, [7, 10], **how)
    np.testing.assert_array_equal(pixels[0], own[0].pixels)
    np.testing.assert_array_equal(pixels[3], own[1].pixels)
    assert not np.array_equal(pixels[0], pixels[1])


@pytest.mark.slow
def test_interrupted_run_goes_on_to_the_same_files(paint, whole, tmp_path, monkeypatch) -> None:
    add, calls = ImageFolder.add, []

    def interrupt(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ImageFolder, "add", interrupt)
        paint(tmp_path)
    assert len(list((tmp_path / "painted").glob("*.png"))) == 2
    assert not (tmp_path / "scorer").exists()
    assert paint(tmp_path, resume=True) == (4, 4, 0)
    assert files(tmp_path / "scorer") == files(whole / "scorer")


def test_folder_of_no_run_is_refused(paint, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="has no run.json: no run to go on with"):
        paint(tmp_path, resume=True)


BAD = {
    "oblong": (("dpg", 4, (32, 16)), "size 32x16: DPG-Bench's scorer cuts squares out"),
    "five": (("dpg", 5, (16, 16)), "5 images a prompt: DPG-Bench's grid holds 4"),
    "none": (("geneval", 0, (16, 16)), "0 images a prompt: want 1 or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_scorer_cannot_read_is_refused(case: str) -> None:
    (benchmark, count, size), message = BAD[case]
    with pytest.raises(ValueError, match=message):
        check_job(Job(benchmark, Path("prompts"), count, size, 0))


def test_bucket_is_refused(small_lumina, metadata) -> None:
    with pytest.raises(ValueError, match="the public scorers read a disk"):
        paint_benchmark(small_lumina, Job("geneval", metadata, 1, SIZE, 0), "gs://bucket/out")
