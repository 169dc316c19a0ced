"""sample.py --task: what is written and printed, conversations through a pipe, and errors in one line."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sample
from lumina_jax.asking import ASKED, Asked, chat_loop, check
from lumina_jax.cli import run_main
from lumina_jax.image_files import read_metadata
from lumina_jax.unirep.tasks import TASKS


@pytest.fixture
def run(small_lumina, tmp_path: Path, monkeypatch):
    """Run sample.py's main in a folder with photo.png of 32x16 px, with the small model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "load", lambda options: small_lumina)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return lambda *arguments: run_main(lambda: sample.main(list(arguments)))


def test_every_task_that_can_be_asked_has_its_row() -> None:
    assert set(ASKED) == set(TASKS) - {"text_to_image", "text_to_image_any_size", "next_edit"}
    for task, (_, word) in ASKED.items():
        if word is not None:
            assert word in TASKS[task].fields


def test_edited_picture_carries_task_prompt_and_seed(run, small_lumina, capsys) -> None:
    words = ["--instruction", "make it blue", "--size", "32x16", "--seed", "3", "--top-k", "30"]
    run("--task", "edit", "--image", "photo.png", *words, "--out", "blue.png")
    wanted = small_lumina.edit("photo.png", "make it blue", (32, 16), seed=3, image_top_k=30)
    np.testing.assert_array_equal(np.asarray(Image.open("blue.png")), wanted.pixels)
    stored = read_metadata("blue.png")
    assert (stored["task"], stored["seed"]) == ("edit", "3")
    assert (
        stored["prompt"] == "make it blue <|image|>" and '"image_top_k": 30' in stored["settings"]
    )
    assert capsys.readouterr().out.strip() == "blue.png"


def test_text_is_printed_and_written(run, small_lumina, capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        small_lumina,
        "answer",
        lambda texts, images, **_: [f"{len(i)} {t}" for t, i in zip(texts, images, strict=True)],
    )
    run(
        "--task",
        "question",
        "--image",
        "photo.png",
        "--question",
        "a",
        "--question",
        "b",
        "--out",
        "a.txt",
    )
    assert capsys.readouterr().out == "1 a\n1 b\n" == Path("a.txt").read_text()


@pytest.mark.slow
def test_several_pictures_fill_a_folder(run, capsys) -> None:
    few = ["--size", "32x16", "--top-k", "30"]
    run("--task", "depth", "--image", "photo.png", "--image", "photo.png", *few, "--out", "maps")
    assert sorted(path.name for path in Path("maps").iterdir()) == [
        "00-depth-photo.png",
        "01-depth-photo.png",
    ]
    run("--task", "multi_view", "--prompt", "a", "--views", "2", *few, "--out", "round")
    assert len(list(Path("round").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "deepth"], "deepth"),
        (["--task", "depth"], "wants a picture, --image FILE"),
        (["--task", "depth", "--image", "none.png"], "none.png: no such image file"),
        (["--task", "depth", "--image", "photo.png", "--prompt", "a"], "takes no --prompt"),
        (["--task", "edit", "--image", "photo.png"], "wants its instruction"),
        (["--task", "depth", "--image", "photo.png", "--out", "a.jpg"], "a.jpg"),
        (["--task", "describe", "--image", "photo.png", "--out", "a.png"], "name a .txt file"),
        (["--task", "depth", "--image", "photo.png", "--best-of", "2"], "--best-of: not with"),
        (["--task", "depth", "--image", "photo.png", "--views", "2"], "--views 2"),
        (["--task", "depth", *["--image", "photo.png"] * 2, "--out", "a.png"], "name a folder"),
        (["--image", "photo.png", "--prompt", "a"], "go with a task"),
        (["--task", "chat", "--prompt", "a"], "type it as a turn"),
        (["--task", "chat", "--out", "a.png"], "--out a.png: not with --task chat"),
        (["--task", "chat", "--resume"], "--resume: not with --task chat"),
        (["--task", "depth", "--image", "photo.png", "--batch", "0"], "--batch: not with"),
        (["--task", "depth", "--image", "photo.png", "--distributed"], "--distributed: not with"),
        (["--task", "describe", "--image", "photo.png", "--size", "32x16"], "leave out --size"),
        (["--task", "question", "--prompt", "a", "--size", "32x16"], "leave out --size"),
        (["--task", "question", "--prompt", " "], "empty question"),
        (["--task", "multi_view", "--prompt", "a", "--out", "sample.png"], "name a folder"),
        (["--prompt", "a", "--text-top-k", "5"], "--text-top-k go with a task"),
    ],
)
def test_wrong_command_lines_end_with_one_line_and_code_2(
    run, capsys, arguments, message, monkeypatch
) -> None:
    monkeypatch.setattr(sample, "load", None)  # before any model is read
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1 and message in told


def talk(model, lines: list[str], is_terminal: bool = False) -> list[str]:
    """What a conversation prints."""
    out = io.StringIO()
    few = {"image_top_k": 30, "text_top_k": 1}
    chat_loop(model, Asked("chat", size=(32, 16), settings=few), lines, out, is_terminal)
    return out.getvalue().splitlines()


def test_conversation_through_a_pipe(run, small_lumina, tmp_path: Path) -> None:
    lines = [":want image", "make it blue", ":save blue.png", "", ":quit", ":nonsense"]
    said = talk(small_lumina, lines)
    assert said[0] == "(answers: image)" and said[-1] == "blue.png"
    assert said[1].startswith("(an image of 32x16 px")
    chat = small_lumina.chat(image_top_k=30, text_top_k=1)
    wanted = chat.send("make it blue", size=(32, 16), want="image").images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "blue.png")), wanted.pixels)


def test_wrong_line_ends_a_pipe_and_is_told_on_a_terminal(run, small_lumina) -> None:
    for line in (":save a.png", ":image none.png", ":nonsense", ":want"):
        with pytest.raises((ValueError, OSError)):
            talk(small_lumina, [line])
        greeting, *told = talk(small_lumina, [line, ":quit"], is_terminal=True)
        assert ":quit" in greeting and len(told) == 1 and told[0].startswith("error: ")


def test_check_reads_nothing_but_what_is_asked(run) -> None:
    check(Asked("question", words=("Hi",)))
    check(Asked("segmentation", images=(Path("photo.png"),)))
