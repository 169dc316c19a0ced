"""Folders of images and tables: captions beside, odd rows, links."""

import csv
from pathlib import Path

import pytest

from lumina_jax.data.pretokenize.examples import MAX_TEXT_BYTES, digest_of
from lumina_jax.data.pretokenize.options import SourceOptions
from lumina_jax.data.pretokenize.sources import find_kind, open_source
from tests.data.pretokenize.pictures import jpeg, scene
from tests.data.pretokenize.test_sources import everything


def test_a_folder_gives_images_with_the_text_beside(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name in ("b.JPG", "deep/a.png", "no.jpg", "void.jpg", ".hidden.jpg"):
        (tmp_path / name).write_bytes(jpeg(scene(0)))
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf a dome\n")
    (tmp_path / "deep" / "a.txt").write_text("a ring")
    (tmp_path / "void.txt").write_text("\n")
    source = open_source(tmp_path, SourceOptions())
    assert (source.kind, source.read(1).id) == ("folder", "deep/a.png")
    assert everything(source) == [
        (("a dome",), [""], str(tmp_path / "b.JPG")),
        (("a ring",), [""], str(tmp_path / "deep" / "a.png")),
        (str(tmp_path / "no.jpg"), "no caption beside it: want no.txt"),
        (str(tmp_path / "void.jpg"), "empty caption"),
    ]
    (tmp_path / "b.txt").unlink()
    assert open_source(tmp_path, SourceOptions()).listing == source.listing  # of images
    (tmp_path / "new.jpg").write_bytes(b"")
    assert open_source(tmp_path, SourceOptions()).listing != source.listing


def test_a_table_in_a_folder_of_images_says_the_captions(tmp_path: Path):
    rows = [
        ["file", "text", "more"],
        ["a.png", "two\nlines", 1],
        ["../a.png", "x", 2],
        ["b.png", "", 3],
        ["é.png", "x", 4],
        ["c.png", "long " * 100_000, 5],
    ]
    with (tmp_path / "table.csv").open("w", newline="", encoding="latin-1") as stream:
        csv.writer(stream).writerows(rows)
    options = SourceOptions(image_field="file", caption_field="text")
    file = tmp_path / "table.csv"
    assert find_kind(tmp_path, options) == ("table", file)
    found = everything(open_source(tmp_path, options))
    assert found[0] == (("two\nlines",), ["a.png"], f"{file}:2")
    assert found[1][0] == f"{file}:4" and found[1][1].startswith("'../a.png': leads out of")
    assert found[2] == (f"{file}:5", "empty caption")
    assert found[3] == (f"{file}:6", "no UTF-8")  # and costs itself alone
    assert found[4][1:] == (["c.png"], f"{file}:7")
    stated = [{"file": name, "text": text} for name, text, _ in rows[1:]]
    stated[3]["file"] = "\udce9.png"
    listing = digest_of(zip((2, 4, 5, 6, 7), stated, strict=True))
    assert open_source(tmp_path, options).listing == listing  # in every process
    with file.open("a") as stream:
        stream.write('"' + "x" * (MAX_TEXT_BYTES + 1))
    with pytest.raises(ValueError, match="table.csv:8: no table"):
        open_source(tmp_path, options)
    file.write_text("file,text,more\n")
    with pytest.raises(ValueError, match="no column 'image' among file, text, more; name it with"):
        open_source(tmp_path, SourceOptions())


def test_links_stay_in_the_folder_unless_they_are_followed(tmp_path: Path):
    folder, outside = tmp_path / "src", tmp_path / "outside"
    for path in (folder / "deep", outside):
        path.mkdir(parents=True)
    for path in (folder / "deep" / "a.jpg", outside / "b.jpg"):
        path.write_bytes(b"")
        path.with_suffix(".txt").write_text("a dome")
    with pytest.raises(ValueError, match="no images there .*--follow-links"):
        (outside / "links").mkdir()
        (outside / "links" / "to").symlink_to(folder)
        open_source(outside / "links", SourceOptions(kind="folder"))
    (folder / "c.jpg").symlink_to(folder / "deep" / "a.jpg")
    (folder / "c.txt").symlink_to(folder / "deep" / "a.txt")
    (folder / "d.jpg").symlink_to(outside / "b.jpg")
    (folder / "e.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "e.txt").write_text("a ring")
    (folder / "f.jpg").write_bytes(b"")
    (folder / "f.txt").symlink_to(outside / "b.txt")
    (folder / "more").symlink_to(outside)
    (outside / "back").symlink_to(folder)
    found = everything(open_source(folder, SourceOptions()))
    assert [one[0] if len(one) == 3 else Path(one[0]).name for one in found] == [
        ("a dome",),
        "d.jpg",
        ("a dome",),
        ("a ring",),
        "f.jpg",
    ]
    assert all("a link leads out of" in one[1] for one in (found[1], found[4]))
    found = everything(open_source(folder, SourceOptions(follow_links=True)))
    places = [str(Path(one[-1 if len(one) == 3 else 0]).relative_to(folder)) for one in found]
    assert places == ["c.jpg", "d.jpg", "deep/a.jpg", "e.jpg", "f.jpg", "more/b.jpg"]
    assert found[1][1] == "no caption beside it: want d.txt" and found[4][0] == ("a dome",)
