"""Files of prompts: what a line may say, and what is answered to one that says something else."""

import json
from pathlib import Path

import pytest

from lumina_jax.config import SampleConfig
from lumina_jax.serving.prompt_file import read_prompts, share_of


@pytest.fixture
def read(tmp_path: Path):
    """Read a file of these lines."""

    def read_lines(*lines: dict | str | bytes, **defaults):
        texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
        content = [text.encode() if isinstance(text, str) else text for text in texts]
        (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(content))
        return read_prompts(tmp_path / "prompts.jsonl", defaults)

    return read_lines


def test_line_says_what_it_says_and_the_rest_comes_from_the_defaults(read) -> None:
    full = {"prompt": "A red dome!", "size": "128x96", "seed": 7, "guidance": 3, "top_k": 5}
    full |= {"temperature": 0.5, "top_p": 0.9, "image_guidance": 1.2, "id": "dome.1"}
    first, second = read(full, "", '{"prompt": "two rings", "size": [64, 32]}\r', seed=2, top_k=9)
    assert (first.number, first.index, first.prompt, first.file) == (
        1,
        0,
        "A red dome!",
        "dome.1.png",
    )
    assert (first.size, first.seed) == ((128, 96), 7)
    assert first.settings(SampleConfig(window=4)) == SampleConfig(
        3, 1.2, temperature=0.5, image_top_k=5, image_top_p=0.9, window=4
    )
    assert (second.number, second.index, second.file) == (3, 1, "00001-two-rings.png")
    assert (second.size, second.seed) == ((64, 32), 2)
    assert second.settings(SampleConfig()) == SampleConfig(image_top_k=9)


def test_names_of_long_prompts_fit_any_file_system(read) -> None:
    [line] = read({"prompt": "圆" * 300})
    assert len(line.file.encode()) <= 104 and line.file.startswith("00000-圆圆")


BAD = {
    "no JSON": ("{prompt", "no JSON (Expecting property name"),
    "no object": ('["a"]', 'want an object such as {"prompt": "a red dome"}, got [\'a\']'),
    "no UTF-8": (b'{"prompt": "\xff"}', "no UTF-8"),
    "endless": ("[" * 100_000, "no JSON that can be read"),
    "no prompt": ({"seed": 1}, 'no "prompt"'),
    "empty prompt": ({"prompt": " "}, 'prompt " ": want what to paint, in words'),
    "unknown key": (
        {"prompt": "a", "sede": 1},
        "unknown key 'sede': choose one of guidance, id, image_guidance, min_p, prompt, seed, size, "
        "temperature, top_k, top_p; did you mean 'seed'?",
    ),
    "seed": ({"prompt": "a", "seed": True}, "seed true: want a whole number"),
    "size": ({"prompt": "a", "size": "big"}, "size 'big': want WIDTHxHEIGHT"),
    "three sides": ({"prompt": "a", "size": [1, 2, 3]}, 'want "WIDTHxHEIGHT" or [width, height]'),
    "guidance": ({"prompt": "a", "guidance": "3"}, 'guidance "3": want a number'),
    "not finite": ('{"prompt": "a", "guidance": NaN}', "guidance nan: want a finite number"),
    "top-p": ({"prompt": "a", "top_p": 2}, "image_top_p 2: want > 0, at most 1"),
    "id": ({"prompt": "a", "id": "../a"}, 'id "../a": want up to 100 letters'),
    "same id": ({"prompt": "a", "id": "FINE"}, "its picture FINE.png is line 1's too"),
    "id like another's name": (
        {"prompt": "b", "id": "00002-c"},
        "line 4: its picture 00002-c.png is",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_line_is_named_with_its_number(read, tmp_path: Path, case: str) -> None:
    line, message = BAD[case]
    with pytest.raises(ValueError, match="prompts.jsonl line [34]: ") as caught:
        read({"prompt": "a", "id": "fine"}, "", line, {"prompt": "c"})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_default_is_not_blamed_on_a_line(read) -> None:
    with pytest.raises(ValueError, match="^size 'big'"):
        read({"prompt": "a"}, size="big")


def test_file_that_is_absent_or_empty_is_answered_in_one_line(read, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl: no such prompt file"):
        read_prompts(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="prompts.jsonl: no prompts"):
        read("", " ")


@pytest.mark.parametrize("num_processes", [1, 2, 5, 9])
def test_hosts_share_every_line_once_and_evenly(read, num_processes: int) -> None:
    lines = read(*[{"prompt": f"{n} rings"} for n in range(7)])
    shares = [share_of(lines, process, num_processes) for process in range(num_processes)]
    assert sorted(line.index for share in shares for line in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
