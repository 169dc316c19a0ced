"""The whole command on a tiny model: three files a part, and nothing painted twice."""

import json

import pytest

from lumina_jax.evals import prompts, protocol
from lumina_jax.evals.kept import load_scored
from lumina_jax.evals.sweep import decoders, points
from lumina_jax.evals.sweep.__main__ import Options, check, measure
from lumina_jax.evals.sweep.defects.table import DEFECTS
from lumina_jax.evals.sweep.points import Amounts
from lumina_jax.evals.sweep.settings import Grid
from lumina_jax.sampling import DECODERS


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_scored(tiny_model.path)


@pytest.fixture
def options(tiny_model, tmp_path, monkeypatch):
    """Two prompts a category, all of one small size."""
    monkeypatch.setattr(prompts, "SIZES_PX", ((64, 48),))
    monkeypatch.setattr(protocol, "SIZES_PX", ((64, 64),))
    few = {"jacobi, window 4": decoders.VARIANTS["jacobi, window 4"]}  # others take long to compile
    monkeypatch.setattr(decoders, "VARIANTS", few)
    grid = Grid((1.0, 2.0), (1, 20), (1.0,))
    amounts = Amounts(timed_images=2, rounds=2, examples=2)
    return Options(
        tiny_model.path, out=tmp_path, prompts_per_category=2, grid=grid, amounts=amounts
    )


@pytest.mark.slow
@pytest.mark.parametrize("part", ["settings", "guidance", "grammar", "decoders", "defects"])
def test_a_part_writes_three_files_and_goes_on_with_them(part, options, model, monkeypatch, capsys):
    others = (model,) if part == "guidance" else ()
    rows = measure(part, options, model, others)
    text = (options.out / f"{part}.md").read_text()
    assert text in capsys.readouterr().out and len(text.splitlines()) == 2 + len(rows)
    assert (options.out / f"{part}.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((options.out / f"{part}.json").read_text())
    assert found["seeds"] == [100_000, 100_011] and found["purpose"] == "choose"
    check_rows[part]({row.name: row for row in rows}, found["points"])

    def never(*args, **options):
        raise AssertionError("drawn again")

    for name in ("generate", "decode_images"):
        monkeypatch.setattr(points, name, never)
    assert measure(part, options, model, others) == rows


def check_settings(rows, found):
    assert len(rows) == 5 and rows["own settings"].gain is None
    assert all(len(point["right"]) == 12 for point in found.values())


def check_guidance(rows, found):
    assert len(rows) == 8
    more = rows["checkpoint 2, guidance 2.5"].more
    assert all(column["score"] == 0 for column in more.values()) and len(more) == 2


def check_grammar(rows, found):
    assert rows["exact"].more["unreadable"]["score"] == 0
    assert rows["none"].more["unreadable"]["score"] == 1  # random weights write no image
    assert rows["exact"].more["time, times exact"]["score"] == 1


def check_decoders(rows, found):
    assert {*DECODERS, *decoders.VARIANTS} == {*rows}
    assert rows["sequential"].more["passes"]["score"] == 12  # codes of 64x48 px
    assert rows["jacobi"].more["as sequential"]["score"] == 1
    assert rows["coupled"].more["greedy as sequential"]["score"] == 1
    assert "as sequential" not in rows["staggered"].more


def check_defects(rows, found):
    assert {*rows} == {*DEFECTS}
    for row in rows.values():
        assert row.score["low"] <= row.score["score"] <= row.score["high"]
        assert row.more["what it costs"].endswith(".")
    tasks = found["unshifted z-loss mask"]["tasks"]
    assert tasks["question"]["left_out"]["score"] > tasks["text_to_image"]["left_out"]["score"]
    assert all(-1 <= row["cosine"]["score"] <= 1 for row in tasks.values())


check_rows = {
    "settings": check_settings,
    "guidance": check_guidance,
    "grammar": check_grammar,
    "decoders": check_decoders,
    "defects": check_defects,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts_per_category": 1}, "at least 2 prompts a category"),
        ({"parts": ()}, "want a part"),
        ({"amounts": Amounts(rounds=1)}, "2 rounds of timing"),
        ({"parts": ("grammar",), "others": ("scenes",)}, "--others has no meaning"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check(Options("scenes", **change))
