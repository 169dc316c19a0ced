"""sample.py and the evaluation's report with a checkpoint and results in a bucket."""

import io

import numpy as np
import pytest
from PIL import Image

import sample
from lumina_jax.checkpoint import save_model, write_json
from lumina_jax.cli import run_main
from lumina_jax.image_files import read_metadata
from lumina_jax.paths import as_path


@pytest.fixture
def checkpoint(small_lumina, fake_gcs) -> str:
    """The small model in the bucket."""
    model, address = small_lumina, f"{fake_gcs.url}/model"
    return str(save_model(address, model.loaded.params, model.config, model.tokenizer))


def test_pictures_and_sheet_go_into_the_bucket(checkpoint, fake_gcs, small_lumina, capsys):
    out = ["--out", f"{fake_gcs.url}/out", "--contact-sheet", f"{fake_gcs.url}/sheets/all.png"]
    few = ["--checkpoint", checkpoint, "--top-k", "30", "--guidance", "2", "--size", "48x32"]
    run_main(lambda: sample.main([*few, *out, "--prompt", "a red star", "--seed", "5"]))
    wanted = small_lumina.generate("a red star", (48, 32), seed=5, guidance=2.0, image_top_k=30)
    written = "out/00-a-red-star.png"
    stored = np.asarray(Image.open(io.BytesIO(fake_gcs.get(written))))
    np.testing.assert_array_equal(stored, wanted.pixels)
    assert read_metadata(f"{fake_gcs.url}/{written}")["seed"] == "5"
    printed = capsys.readouterr().out.splitlines()[1:]
    assert printed == [f"{fake_gcs.url}/sheets/all.png", f"{fake_gcs.url}/{written}"]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--checkpoint", "gs://nobodys/model"], "gs://nobodys: no such bucket"),
        (["--out", "gs://nobodys/x.png"], "gs://nobodys: no such bucket"),
        (["--checkpoint", "{}/nowhere"], "/nowhere: no checkpoint there"),
        (["--out", "{}/x.jpg"], "images are written as PNG"),
    ],
)
def test_bad_places_are_answered_in_one_line(
    fake_gcs, tmp_path, monkeypatch, capsys, arguments: list[str], wanted: str
):
    monkeypatch.chdir(tmp_path)
    given = [argument.format(fake_gcs.url) for argument in arguments]
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: sample.main(["--prompt", "a star", *given]))
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1
    assert lines[0].startswith("error: ") and wanted in lines[0]


def test_conversation_images_are_read_from_the_bucket(small_lumina, fake_gcs):
    stream = io.BytesIO()
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (32, 48, 3), np.uint8))
    image.save(stream, "PNG")
    fake_gcs.put("images/a.png", stream.getvalue())
    turns = [{"from": "human", "value": "<|image|>"}, {"from": "gpt", "value": "a star"}]

    def ids(name, **place) -> list[int]:
        record = {"conversations": turns, "image": [name]}
        return small_lumina.conversation_ids(record, 64, **place)[0].tolist()

    wanted = ids(image)
    assert ids("a.png", root=f"{fake_gcs.url}/images") == wanted
    assert ids(f"{fake_gcs.url}/images/a.png") == wanted
    with pytest.raises(FileNotFoundError, match="no such image file"):
        ids("b.png", root=f"{fake_gcs.url}/images")


def test_a_report_goes_into_the_bucket(fake_gcs):
    write_json(as_path(f"{fake_gcs.url}/scores/a.json"), {"score": 1})
    assert fake_gcs.get("scores/a.json") == b'{\n "score": 1\n}\n'
