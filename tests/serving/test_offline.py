"""Prompt files painted: as alone, resumed at every moment, on a full disk, on several devices and hosts."""

import errno
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from lumina_jax.config import SampleConfig
from lumina_jax.serving import image_folder, offline
from lumina_jax.serving.offline import paint_lines
from lumina_jax.serving.prompt_file import read_prompts
from lumina_jax.serving.queue import Queue

SETTINGS = SampleConfig(guidance=2.0, image_top_k=30)
ASKED = [
    {"prompt": "a red star", "size": "48x32", "seed": 5},
    {"prompt": "a", "size": [16, 16], "id": "tiny"},
    {"prompt": "a purple square", "size": "16x16", "temperature": 0.7},
    {"prompt": "a red star", "size": "48x32", "seed": 6},
    {"prompt": "It is red.", "size": "32x16", "top_k": 1, "guidance": 3},
]
NAMES = [
    "00000-a-red-star.png",
    "tiny.png",
    "00002-a-purple-square.png",
    "00003-a-red-star.png",
    "00004-it-is-red.png",
]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in ASKED))
    return path


@pytest.fixture(scope="module")
def paint(small_lumina, prompts: Path) -> Callable[..., offline.Painted]:
    """Paint the file into a folder, two images at a time on one device."""

    def run(folder: Path | str, **options) -> offline.Painted:
        given = {"settings": SETTINGS, "batch": 2, "devices": jax.devices()[:1], **options}
        return paint_lines(small_lumina, read_prompts(prompts), prompts, folder, **given)

    return run


@pytest.fixture(scope="module")
def whole(paint, tmp_path_factory) -> Path:
    """What a run that nothing disturbs writes."""
    folder = tmp_path_factory.mktemp("whole")
    assert paint(folder) == (5, 5, 0)
    return folder


def lines_of(folder: Path) -> dict[str, dict]:
    """The lines of a folder by file, without the seconds that drawing took; no file has two."""
    records = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    assert len({record["file"] for record in records}) == len(records)
    return {record["file"]: {**record, "seconds": 0} for record in records}


def assert_same(folder: Path, whole: Path) -> None:
    assert sorted(os.listdir(folder)) == sorted([*NAMES, "images.jsonl"])
    for name in NAMES:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert lines_of(folder) == lines_of(whole)


def test_images_of_a_file_equal_the_models_own(whole, small_lumina) -> None:
    lines = lines_of(whole)
    assert sorted(lines) == sorted(NAMES)
    wanted = small_lumina.generate("a red star", (48, 32), 5, guidance=2.0, image_top_k=30)
    np.testing.assert_array_equal(np.asarray(Image.open(whole / NAMES[0])), wanted.pixels)
    own = small_lumina.generate("It is red.", (32, 16), 0, guidance=3.0, image_top_k=1)
    np.testing.assert_array_equal(np.asarray(Image.open(whole / NAMES[4])), own.pixels)
    line = lines[NAMES[4]]
    assert (line["index"], line["size"], line["seed"]) == (4, "32x16", 0)
    assert (line["settings"]["guidance"], line["settings"]["image_top_k"]) == (3, 1)
    assert line["checkpoint"] == small_lumina.checkpoint
    assert line["passes"] > 0


def test_folder_that_holds_something_is_refused_without_resume(paint, whole) -> None:
    with pytest.raises(ValueError, match="is not empty; name a new folder, or go on .* --resume"):
        paint(whole)


def test_images_of_another_precision_are_drawn_anew(
    paint, whole, small_lumina, tmp_path, monkeypatch
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(whole, folder)
    monkeypatch.setattr(small_lumina, "precision", "float32")
    assert paint(folder, resume=True) == (5, 5, 0)
    assert {line["precision"] for line in lines_of(folder).values()} == {"float32"}
    assert {line["precision"] for line in lines_of(whole).values()} == {None}


def _torn(folder: Path) -> None:
    log = folder / "images.jsonl"
    log.write_bytes(log.read_bytes()[:-30])


def _without_line(folder: Path) -> None:
    log = folder / "images.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-2]))


def _half_written(folder: Path) -> None:
    (folder / NAMES[1]).unlink()
    (folder / f"{NAMES[1]}.writing-77").write_bytes(b"half")
    (folder / "images.jsonl.writing-77").write_bytes(b"{")


DIED = {
    "before anything": lambda folder: [(folder / name).unlink() for name in os.listdir(folder)],
    "in the middle of a line": _torn,
    "between picture and line": _without_line,
    "in the middle of a picture": _half_written,
    "before the disk had a picture": lambda folder: (folder / NAMES[0]).write_bytes(b""),
    "with a line of something else": lambda folder: (folder / "images.jsonl").write_text("1\n{}\n"),
    "at the end": lambda folder: None,
}


@pytest.mark.parametrize("moment", DIED)
def test_run_that_died_is_resumed_to_the_same_bytes(paint, whole, tmp_path, moment: str) -> None:
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    DIED[moment](folder)
    assert paint(folder, resume=True) == (5, 5, 0)
    assert_same(folder, whole)


def test_only_what_is_missing_or_asked_otherwise_is_drawn(
    paint, whole, tmp_path, monkeypatch
) -> None:
    drawn = []
    submit = Queue.submit
    monkeypatch.setattr(Queue, "submit", lambda *args: drawn.append(args[2]) or submit(*args))
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    paint(folder, resume=True)
    assert drawn == []
    log = folder / "images.jsonl"
    log.write_text(log.read_text().replace('"seed": 6', '"seed": 7'))
    paint(folder, resume=True)
    assert drawn == ["a red star"]
    assert_same(folder, whole)
    paint(folder, resume=True, settings=SampleConfig(guidance=2.5, image_top_k=30))
    assert len(drawn) == 5  # all but the one that sets its own guidance, whose line stays


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _writes_half(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content[: len(content) // 2])
    _full()


FULL = {  # what fails at its third call
    "a picture": (pathlib.Path, "write_bytes", _writes_half),
    "its name": (os, "replace", _full),
    "its line": (os, "fsync", _full),
}


@pytest.mark.parametrize("place", FULL)
def test_full_disk_leaves_what_is_finished_and_the_run_resumes(
    paint, whole, tmp_path, monkeypatch, place: str
) -> None:
    owner, name, fail = FULL[place]
    work, calls = getattr(owner, name), []

    def disk(*args):
        calls.append(args)
        return work(*args) if len(calls) < 3 else fail(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, disk)
        with pytest.raises(
            OSError, match=r"No space left on device; 2 of 5 images are finished"
        ) as caught:
            paint(tmp_path)
    assert "\n" not in str(caught.value) and "--resume" in str(caught.value)
    assert len(lines_of(tmp_path)) == 2
    for file, line in lines_of(tmp_path).items():
        assert line == lines_of(whole)[file]
        assert (tmp_path / file).read_bytes() == (whole / file).read_bytes()
    assert not [each for each in os.listdir(tmp_path) if "writing" in each]
    assert paint(tmp_path, resume=True) == (5, 5, 0)
    assert_same(tmp_path, whole)


@pytest.mark.slow
def test_several_devices_write_the_same_bytes(paint, whole, tmp_path) -> None:
    paint(tmp_path, devices=jax.devices()[1:3], batch=1)
    assert_same(tmp_path, whole)


def test_several_hosts_write_the_same_images_and_one_resumes_them_all(
    paint, whole, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(offline, "_wait_for_all", lambda name: None)
    for process in range(2):
        hosts = SimpleNamespace(
            process_index=lambda at=process: at, process_count=lambda: 2, local_devices=jax.devices
        )
        with monkeypatch.context() as patch:
            patch.setattr(offline, "jax", hosts)
            assert paint(tmp_path, resume=process > 0)[1] == 3 - process
    logs = [f"images-0000{process}-of-00002.jsonl" for process in range(2)]
    assert sorted(os.listdir(tmp_path)) == sorted([*NAMES, *logs])
    records = [image_folder.read_lines(tmp_path / log) for log in logs]
    assert [sorted(record["index"] for record in each) for each in records] == [[0, 2, 4], [1, 3]]
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    monkeypatch.setattr(Queue, "submit", lambda *_: pytest.fail("drawn again"))
    assert paint(tmp_path, resume=True) == (5, 5, 0)


def test_file_goes_into_a_bucket_and_is_resumed_there(paint, whole, fake_gcs) -> None:
    folder = f"{fake_gcs.url}/out"
    paint(folder)
    assert fake_gcs.names() == sorted(f"out/{name}" for name in [*NAMES, "images.jsonl"])
    assert fake_gcs.get(f"out/{NAMES[0]}") == (whole / NAMES[0]).read_bytes()
    first = fake_gcs.get("out/images.jsonl").splitlines(keepends=True)
    fake_gcs.put("out/images.jsonl", b"".join(first[:3]))
    fake_gcs.delete(f"out/{json.loads(first[0])['file']}")
    paint(folder, resume=True)
    again = fake_gcs.get("out/images.jsonl").splitlines(keepends=True)
    assert again[:2] == first[1:3] and len(again) == 5
    with pytest.raises(ValueError, match="is not empty"):
        paint(folder)


def test_line_that_the_model_cannot_paint_is_named_before_anything_is_drawn(
    small_lumina, tmp_path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "a", "size": "50x32"}\n')
    with pytest.raises(ValueError, match="prompts.jsonl line 2: size 50x32: .* nearest is 48x32"):
        paint_lines(small_lumina, read_prompts(path), path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
