"""The command: what it refuses in one line, and an answering model bound to a benchmark."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from lumina_jax.cli import run_main
from lumina_jax.lumina import Lumina
from lumina_jax.official.__main__ import main


def refused(arguments: list[str], capsys) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: main(arguments))
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


BAD = {
    "no benchmark": (["genevil"], "unknown benchmark 'genevil'"),
    "no prompts": (["geneval", "no.jsonl", "--out", "o"], "no.jsonl: no such prompt file"),
    "no folder": (["dpg", "nowhere", "--out", "o"], "nowhere: no such folder"),
    "no images": (["pope", "p.json", "--out", "o"], "--images: want the folder of COCO's"),
    "table": (["mmbench", "m.tsv", "--out", "o", "--table", "csv"], "want tsv or xlsx"),
    "batch": (["mme", "m.tsv", "--out", "o", "--batch", "0"], "--batch 0: want 1 or more"),
    "no weights": (["fid", "a", "b", "--inception", "w.pth"], "w.pth: no weights of InceptionV3"),
    "misspelt": (["clip", "a", "--clip", "b", "--bach", "2"], "--bach"),
    "vqgan": (["vqgan", "nowhere"], "nowhere: no such folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_command_is_refused_in_one_line(case: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[case]
    assert message in refused(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_benchmarks(capsys) -> None:
    main(["--help"])
    assert "geneval|dpg|compbench" in capsys.readouterr().out


def test_answers_come_from_the_model_greedily(tmp_path: Path, monkeypatch, capsys) -> None:
    asked = []

    def answer(questions, images, **how):
        asked.append((questions, [[one.size for one in each] for each in images], how))
        return ["Yes"] * len(questions)

    model = SimpleNamespace(answer=answer, checkpoint="0123", precision=None)
    monkeypatch.setattr(Lumina, "load", lambda *_, **__: model)
    folder = tmp_path / "MME" / "count"
    folder.mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(folder / "1.jpg")
    (folder / "1.txt").write_text("Are there two?\tYes\nAre there three?\tNo\n")
    out = tmp_path / "out"
    main(["mme", str(tmp_path / "MME"), "--out", str(out)])
    how = {"seed": 0, "text_top_k": 1, "temperature": 1.0, "max_tokens": 64}
    assert asked == [(["Are there two?", "Are there three?"], [[(6, 4)], [(6, 4)]], how)]
    scores = json.loads((out / "scores.json").read_text())
    assert (scores["perception"], scores["checkpoint"], scores["settings"]) == (50.0, "0123", how)
    assert "perception" in capsys.readouterr().out
