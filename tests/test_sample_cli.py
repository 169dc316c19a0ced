"""sample.py: what it writes, and what it answers to bad input."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import sample
from lumina_jax.checkpoint import save_model
from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.image_files import read_metadata

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def checkpoint(small_lumina, tmp_path_factory) -> str:
    """The small model on disk."""
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    model = small_lumina
    return str(save_model(path, model.loaded.params, model.config, model.tokenizer))


@pytest.fixture
def paint(checkpoint: str, tmp_path: Path, monkeypatch) -> Callable[..., None]:
    """Run sample.py's main in an empty folder, with the small model."""
    monkeypatch.chdir(tmp_path)
    few = ["--checkpoint", checkpoint, "--top-k", "30", "--guidance", "2"]
    return lambda *arguments: run_main(lambda: sample.main([*few, *arguments]))


def test_one_prompt_gives_the_file_asked_for(paint, small_lumina, tmp_path: Path) -> None:
    paint("--prompt", "a red star", "--size", "48x32", "--seed", "5", "--out", "deep/star.png")
    wanted = small_lumina.generate("a red star", (48, 32), seed=5, guidance=2.0, image_top_k=30)
    written = tmp_path / "deep" / "star.png"
    np.testing.assert_array_equal(np.asarray(Image.open(written)), wanted.pixels)
    stored = read_metadata(written)
    assert (stored["prompt"], stored["seed"], stored["size"]) == ("a red star", "5", "48x32")


@pytest.mark.slow
def test_mesh_paints_the_same_image(paint, tmp_path: Path) -> None:
    for mesh in ([], ["--mesh", "data=4"]):
        paint("--prompt", "a red star", "--size", "48x32", "--out", f"{len(mesh)}.png", *mesh)
    single, sharded = (np.asarray(Image.open(tmp_path / f"{n}.png"), int) for n in (0, 2))
    assert np.abs(single - sharded).max() <= 1


def test_image_guidance_and_top_p_reach_the_model() -> None:
    given = {}
    model = SimpleNamespace(
        trained_size=(16, 16), generate=lambda *_, **named: given.update(named) or []
    )
    options = sample.Options(("a",), image_guidance=1.2, top_p=0.9)
    sample.paint(model, options, sample.plan(options)[0])  # type: ignore[arg-type]
    assert (given["image_guidance"], given["image_top_p"]) == (1.2, 0.9)


def test_controls_reach_the_model() -> None:
    calls = {}
    model = SimpleNamespace(
        trained_size=(16, 16),
        generate=lambda *_, **named: calls.update(generate=named) or [],
        outpaint=lambda *given, **named: calls.update(outpaint=(given, named)) or [],
        inpaint=lambda *given, **named: calls.update(inpaint=(given, named)) or [],
    )
    flags = ["--prompt", "a", "--guidance-schedule", "4", "2.5", "--negative-prompt", "a dome"]
    flags += ["--min-p", "0.1", "--best-of", "3"]
    pictures = {
        "generate": [],
        "outpaint": ["--outpaint", "upper.png", "--size", "32x48"],
        "inpaint": ["--inpaint", "image.png", "--mask", "mask.png"],
    }
    for extra in pictures.values():
        options = parse_arguments(sample.Options, [*flags, *extra], prog="sample.py")
        sample.paint(model, options, sample.plan(options)[0])  # type: ignore[arg-type]
    assert calls["outpaint"][0] == (Path("upper.png"), (32, 48), ["a"], 0)
    assert calls["inpaint"][0] == (Path("image.png"), Path("mask.png"), ["a"], 0)
    for named in (calls["generate"], calls["outpaint"][1], calls["inpaint"][1]):
        assert named["guidance_schedule"] == (4.0, 2.5) and named["negative_prompt"] == "a dome"
        assert (named["image_min_p"], named["best_of"]) == (0.1, 3)


def test_picture_is_continued_and_painted_over(paint, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 48, 3), np.uint8)
    Image.fromarray(pixels).save("upper.png")
    paint("--prompt", "a star", "--outpaint", "upper.png", "--size", "48x32", "--out", "a.png")
    assert Image.open("a.png").size == (48, 32)
    assert read_metadata("a.png")["given"] == "12 of 24 codes"
    mask = np.zeros((32, 48), np.uint8)
    mask[20:, :10] = 255
    Image.fromarray(mask).save("mask.png")
    paint("--prompt", "a star", "--inpaint", "a.png", "--mask", "mask.png", "--out", "b.png")
    assert read_metadata("b.png")["given"] == "20 of 24 codes"


def test_untrained_size_is_painted_with_one_line_of_warning(paint, capsys) -> None:
    paint("--prompt", "a star", "--size", "144x128", "--out", "large.png")
    assert Image.open("large.png").size == (144, 128)
    lines = [line for line in capsys.readouterr().err.splitlines() if "painting:" not in line]
    assert [line.split(";")[0] for line in lines if line.strip()] == [
        "warning: size 144x128: 18432 px, trained on at most 16384 px (128x128)"
    ]


@pytest.mark.slow
def test_several_prompts_fill_a_folder_and_a_sheet(paint, tmp_path: Path, capsys) -> None:
    prompts = [f"--prompt={text}" for text in ("a red star", "Two circles?", "a")]
    paint(*prompts, "--size", "48x32", "--out", "pictures", "--contact-sheet", "sheet.png")
    names = ["00-a-red-star.png", "01-two-circles.png", "02-a.png"]
    assert sorted(os.listdir(tmp_path / "pictures")) == names
    assert Image.open(tmp_path / "sheet.png").width > 3 * 2 * 48
    printed = capsys.readouterr().out.splitlines()[1:]  # the first line tells the settings
    assert printed == ["sheet.png", *(f"pictures/{name}" for name in names)]


def test_contact_sheet_alone_paints_the_default_prompts(paint, monkeypatch, tmp_path: Path) -> None:
    small = (("a star", (32, 16)), ("a circle", (48, 32)))
    monkeypatch.setattr("lumina_jax.contact_sheet.DEFAULT_REQUESTS", small)
    paint("--contact-sheet", "sheets/sheet.png")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png")] == ["sheets/sheet.png"]


PROMPT = ["--prompt", "a star"]
BAD = {
    "no prompt": ([], "no prompt: say what to paint"),
    "empty prompt": (["--prompt", " "], "empty prompt"),
    "no size": ([*PROMPT, "--size", "big"], "size 'big': want WIDTHxHEIGHT in pixels"),
    "off the grid": ([*PROMPT, "--size", "50x32"], "multiples of 16 px; the nearest is 48x32"),
    "too large": ([*PROMPT, "--size", "256x256"], "needs 1060 tokens, this model has room for"),
    "not a number": ([*PROMPT, "--guidance", "nan"], "guidance nan: want a finite number"),
    "image guidance": ([*PROMPT, "--image-guidance", "-1"], "image_guidance -1.0: want a finite"),
    "top-p": ([*PROMPT, "--top-p", "2"], "image_top_p 2.0: want > 0, at most 1"),
    "top-k": ([*PROMPT, "--top-k", "0"], "top-k must be at least 1"),
    "min-p": ([*PROMPT, "--min-p", "1"], "image_min_p 1.0: want >= 0, below 1"),
    "schedule": ([*PROMPT, "--guidance-schedule", "4", "inf"], "guidance_schedule (4.0, inf)"),
    "none to choose": ([*PROMPT, "--best-of", "0"], "best_of 0: want at least 1 image"),
    "empty negative": ([*PROMPT, "--negative-prompt", " "], "empty negative prompt"),
    "no guidance": (
        [*PROMPT, "--guidance", "1", "--negative-prompt", "a"],
        "negative prompt: guidance 1 reads none",
    ),
    "outpaint without size": ([*PROMPT, "--outpaint", "a.png"], "a.png: how large"),
    "no upper part": (
        [*PROMPT, "--outpaint", "a.png", "--size", "48x32"],
        "a.png: no such image file",
    ),
    "inpaint without mask": ([*PROMPT, "--inpaint", "a.png"], "--inpaint and --mask: want both"),
    "inpaint with size": (
        [*PROMPT, "--inpaint", "a.png", "--mask", "a.png", "--size", "48x32"],
        "--size: --inpaint keeps the size of its picture",
    ),
    "both": ([*PROMPT, "--inpaint", "a.png", "--outpaint", "a.png"], "one of them at a time"),
    "seed": ([*PROMPT, "--seed", "-3"], "seed -3: want 0 to 2147483647"),
    "an impossible folder": ([*PROMPT, "--out", "/dev/null/x.png"], "cannot write there"),
    "a jpeg": ([*PROMPT, "--out", "x.jpg"], "images are written as PNG"),
    "a file as folder": ([*PROMPT, "--out", "/dev/null"], "cannot write there"),
    "one file for two": ([*PROMPT, *PROMPT, "--out", "x.png"], "one file for 2 images"),
    "sheet as jpeg": (["--contact-sheet", "sheet.jpg"], "want a name that ends in .png"),
    "no checkpoint": ([*PROMPT, "--checkpoint", "nowhere"], "nowhere: no checkpoint there"),
    "no mesh": ([*PROMPT, "--mesh", "8"], "mesh '8': want AXIS=DEVICES, such as tensor=8"),
    "no strategy": ([*PROMPT, "--mesh", "tensors=8"], "did you mean 'tensor'"),
    "too few devices": ([*PROMPT, "--mesh", "tensor=16"], "does not fit 8 devices"),
    "too few heads": ([*PROMPT, "--mesh", "tensor=8"], "cannot be split 8 ways"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_one_line(paint, capsys, case: str) -> None:
    arguments, message = BAD[case]
    with pytest.raises(SystemExit) as caught:
        paint(*arguments)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_unwritable_output_is_refused_before_the_model_is_read(paint, capsys) -> None:
    with pytest.raises(SystemExit):
        paint(*PROMPT, "--checkpoint", "nowhere", "--out", "/dev/null/x.png")
    assert "cannot write there" in capsys.readouterr().err


def test_broken_checkpoint_is_answered_in_one_line(paint, checkpoint, capsys, tmp_path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((Path(checkpoint) / "config.json").read_text()[:-20])
    with pytest.raises(SystemExit) as caught:
        paint(*PROMPT, "--checkpoint", str(broken))
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {broken}/config.json: ")


def test_misspelt_flag_ends_the_program_with_code_2() -> None:
    command = [sys.executable, "sample.py", "--promt", "a star"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert (
        len(result.stderr.splitlines()) == 1 and "perhaps --prompt or --prompts?" in result.stderr
    )
