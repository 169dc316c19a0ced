"""Points that are kept, paired differences, times side by side, and how rows are told."""

import pytest

from lumina_jax.evals.paired import mean_of_categories
from lumina_jax.evals.prompts import eval_prompts
from lumina_jax.evals.sweep import timing
from lumina_jax.evals.sweep.figure import heat_maps, intervals_plot, panels
from lumina_jax.evals.sweep.points import (
    Row,
    Sweep,
    gain_of,
    keeper,
    row_of,
    some_requests,
)
from lumina_jax.evals.sweep.settings import Grid, by_place
from lumina_jax.evals.sweep.tables import gained, table

PNG = b"\x89PNG"


def interval(score, low, high):
    return {"score": score, "low": low, "high": high, "n": 12}


def sweep_of(model, per_category=2):
    return Sweep(model, tuple(eval_prompts(per_category)), 100, lambda name, find: find())


def test_points_are_found_once_and_refused_of_another_run(tmp_path):
    path, asked = tmp_path / "part.json", []

    def find():
        asked.append(1)
        return {"right": [True, False]}

    first = keeper(path, {"seed": 1}, progress=False)("a", find)
    keep = keeper(path, {"seed": 1}, progress=False)
    assert keep("a", find) == first == {"right": [True, False]} and len(asked) == 1
    keep("b", find)
    assert len(asked) == 2
    with pytest.raises(ValueError, match=r"another run \(other seed\)"):
        keeper(path, {"seed": 2})


def test_a_gain_is_paired_by_prompt(small_lumina):
    sweep = sweep_of(small_lumina)
    base = {"right": [False, False] * 6}
    point = {"right": [True, False] + [False, False] * 5}
    found = gain_of(sweep, base, point)
    assert found["score"] == pytest.approx(1 / 12) and found["n"] == 12
    half = 1.96 * (0.5 / 2) ** 0.5 / 6  # the variance of one category of two
    assert found["high"] - found["score"] == pytest.approx(half)
    assert gain_of(sweep, point, base)["score"] == pytest.approx(-1 / 12)


def test_a_category_of_one_has_no_variance():
    with pytest.raises(ValueError, match="one pair of category colors"):
        mean_of_categories([1, 0, 0], ["counting", "counting", "colors"])


def test_some_requests_are_of_all_categories(small_lumina):
    requests = some_requests(sweep_of(small_lumina), small_lumina.settings, 6)
    texts = [small_lumina.tokenizer.decode([int(i) for i in r.prompt_ids]) for r in requests]
    assert len(set(texts)) == 6 and {r.width_px for r in requests} == {128}
    assert len(some_requests(sweep_of(small_lumina), small_lumina.settings, 100)) == 12


def test_times_are_ratios_within_a_round_after_a_call_that_compiles(monkeypatch):
    clock, calls = [0.0], []

    def call(name, seconds):
        def run():
            calls.append(name)
            # the first call compiles; every round is slower than the one before
            clock[0] += 100 if len(calls) <= 2 else seconds * len(calls)

        return run

    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])
    found = timing.interleaved({"a": call("a", 1), "b": call("b", 2)}, "a", 3)
    assert calls == ["a", "b"] * 4
    assert found["a"]["ratio"] == {"score": 1, "low": 1, "high": 1, "n": 3}
    ratios = [2 * 4 / 3, 2 * 6 / 5, 2 * 8 / 7]
    wanted = (ratios[0] * ratios[1] * ratios[2]) ** (1 / 3)
    assert found["b"]["ratio"]["score"] == pytest.approx(wanted)
    assert found["b"]["ratio"]["low"] < wanted < found["b"]["ratio"]["high"]
    with pytest.raises(ValueError, match="1 rounds of timing: want at least 2"):
        timing.interleaved({"a": call("a", 1)}, "a", 1)


def test_what_includes_0_is_within_noise():
    assert gained(interval(0.02, -0.01, 0.05)).endswith("within noise")
    assert gained(interval(0.02, 0.01, 0.05)) == "+0.020 [+0.010, +0.050], more"
    assert gained(interval(-0.02, -0.05, -0.01)).endswith("less")


def test_greedy_points_of_a_grid_are_one():
    grid = Grid((1.0, 2.0), (1, 20), (0.7, 1.0))
    named = grid.named()
    assert len(named) == 2 * (1 + 2)
    assert named["guidance 2, greedy"]["temperature"] == 1.0
    rows = [Row(name, interval(0.5, 0.4, 0.6), None, {}) for name in named]
    found = by_place(rows, grid)
    assert found[2.0, 1, 0.7] is found[2.0, 1, 1.0] and found[2.0, 20, 0.7].name.endswith("0.7")


def test_rows_as_table_and_pictures(small_lumina):
    sweep, grid = sweep_of(small_lumina), Grid((1.0,), (1, 20), (1.0,))
    base, other = {"right": [False] * 12}, {"right": [True] * 12}
    rows = [
        row_of(sweep, "own", base, None),
        *(row_of(sweep, name, other, base, time=interval(2.5, 2, 3)) for name in grid.named()),
    ]
    lines = table(rows).splitlines()
    assert lines[0] == "|  | score | against its base | time |"
    assert len(lines) == 2 + len(rows) and "+1.000 [+1.000, +1.000], more" in lines[3]
    assert lines[3].endswith("| 2.50 [2.00, 3.00] |") and lines[2].endswith("|  |  |")
    small = table([Row("a", interval(0.0012, 0.0005, 0.002), None, {})])
    assert small.endswith("| a | 0.00120 [0.00050, 0.00200] |")
    assert heat_maps(rows, grid).startswith(PNG) and intervals_plot(rows).startswith(PNG)
    assert panels([Row("a", interval(1, 0, 2), None, {"number": "share"})]).startswith(PNG)
