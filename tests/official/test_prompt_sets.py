"""The official prompt files: excerpts of our own in their formats, and what is refused."""

import json
from pathlib import Path

import pytest

from lumina_jax.official.prompt_sets import READERS, read_compbench, read_dpg, read_geneval

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "lamp", "count": 1}], "prompt": "one lamp"},
    {
        "tag": "position",
        "include": [
            {"class": "cup", "count": 1},
            {"class": "bed", "count": 1, "position": ["left of", 0]},
        ],
        "prompt": "a bed left of a cup",
    },
]


def written(folder: Path, content: str | bytes, name: str = "prompts.txt") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_geneval_keeps_each_line_and_numbers_folders(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(json.dumps(line) + "\n" for line in GENEVAL))
    first, second = read_geneval(path)
    assert (first.text, first.name, first.metadata) == ("one lamp", "00000", GENEVAL[0])
    assert (second.name, second.metadata) == ("00001", GENEVAL[1])


def test_dpg_takes_names_from_files_in_order_of_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "COCOval2014000000000042", "vrd3"):
        written(tmp_path, f" prompt {name}\n", f"{name}.txt")
    written(tmp_path, "no prompt", "notes.md")
    prompts = read_dpg(tmp_path)
    assert [p.name for p in prompts] == ["9", "10", "COCOval2014000000000042", "vrd3"]
    assert [p.text for p in prompts][:2] == ["prompt 9", "prompt 10"]


def test_compbench_reads_lines_up_to_a_tab_whatever_ends_them(tmp_path: Path) -> None:
    path = written(tmp_path, "a tin cup and a wooden bed\r\nThe red hat is old.\tseen\r\n")
    assert [p.text for p in read_compbench(path)] == [
        "a tin cup and a wooden bed",
        "The red hat is old.",
    ]


BAD = {
    "no file": ("geneval", None, "nowhere.txt: no such prompt file"),
    "no folder": ("dpg", None, "nowhere.txt: no such folder"),
    "empty": ("compbench", "\n", "is empty; want a prompt"),
    "no JSON": ("geneval", '{"tag": "a", "prompt": "b"}\n{', "line 2: no JSON"),
    "a list": ("geneval", "[1]\n", "line 1: want an object with a tag and a prompt"),
    "no tag": ("geneval", '{"prompt": "b"}', 'line 1: no "tag"'),
    "blank prompt": ("geneval", '{"tag": "a", "prompt": " "}', 'line 1: no "prompt"'),
    "Latin-1": ("compbench", b"caf\xe9", "no UTF-8"),
    "underscore": ("compbench", "a\nb_c", "line 2: a prompt with '_'"),
    "slash": ("compbench", "a/b", "line 1: a prompt with '/'"),
    "blank line": ("compbench", "a\n\nb", "line 2: no prompt; the scorers read"),
    "long": ("compbench", "a" * 250, "a prompt of 250 bytes; file names hold 255"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    benchmark, content, message = BAD[case]
    path = tmp_path / "nowhere.txt" if content is None else written(tmp_path, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        READERS[benchmark](path)
    assert "\n" not in str(caught.value)


def test_dpg_refuses_names_that_the_scorer_would_cut(tmp_path: Path) -> None:
    written(tmp_path, "a", "one.two.txt")
    with pytest.raises(ValueError, match="a dot within the name"):
        read_dpg(tmp_path)
    (tmp_path / "one.two.txt").unlink()
    written(tmp_path, "", "one.txt")
    with pytest.raises(ValueError, match="one.txt: is empty"):
        read_dpg(tmp_path)
