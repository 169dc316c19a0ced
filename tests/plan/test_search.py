"""A search over meshes and policies, with a compiler that is told what fits."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from lumina_jax.cli import load_run_file, parse_run_file
from lumina_jax.experiment import Experiment
from lumina_jax.plan.candidates import candidates, counted_candidates, kept_numbers, meshes
from lumina_jax.plan.run_plan import PlanOptions, stage_step
from lumina_jax.plan.search import Verdict, run_search
from lumina_jax.plan.split import plan_layout
from lumina_jax.plan.topology import Topology

V5E = Topology.parse("v5e:2x2")
OPTIONS = PlanOptions("v5e:2x2", max_compiles=50)


class Compiler:
    """Finds that what `fits` says fits; remembers what it was asked."""

    def __init__(self, fits):
        self.fits, self.asked = fits, []

    def __call__(self, run: Experiment, index: int) -> Verdict:
        self.asked.append((run.train.mesh.strategy, run.model.transformer.remat, index))
        return Verdict(self.fits(run), 10**9, 1.0)


def search(run_file: str, compiler: Compiler, options: PlanOptions = OPTIONS):
    said: list[str] = []
    found = run_search(load_run_file(run_file), V5E, options, said.append, compiler)
    return *found, "\n".join(said)


def test_meshes_fill_the_topology_and_keep_data_between_slices():
    for topology in (V5E, Topology.parse("v5e:2x2", 2)):
        found = [*meshes(topology)]
        assert {math.prod(size for _, size in mesh.axes) for mesh in found} == {
            topology.num_devices
        }
    assert {dict(mesh.axes)["data"] % 2 for mesh in found} == {0}
    assert {mesh.strategy for mesh in meshes(V5E)} >= {"data", "fsdp", "tensor", "fsdp_tensor"}


def test_candidates_divide_batches_and_weights(run_file: str):
    """Two key heads: no tensor axis of four; eight rows: no eight micro-batches of fsdp 4."""
    found = [*candidates(load_run_file(run_file), V5E)]
    assert not [c for c in found if dict(c.mesh.axes).get("tensor", 1) > 2]
    assert {c.accumulation for c in found if c.mesh.strategy == "fsdp"} == {1, 2}


def test_a_policy_that_keeps_more_needs_more(run_file: str):
    run = load_run_file(run_file)
    layout = plan_layout(run.train.mesh, 4)
    step = stage_step(run, 0, OPTIONS)
    of = {
        remat: kept_numbers(step._replace(config=replace(step.config, remat=remat)), layout)
        for remat in ("none", "dots", "full")
    }
    # the input; q, k, v, o, gate and up; and what attention gives
    assert of == {"full": 256, "dots": 256 + 4 * 256 + 2 * 512, "none": 256 + 5 * 256 + 2 * 512}


@pytest.mark.slow
def test_the_fastest_projection_that_fits_is_best(run_file: str):
    compiler = Compiler(lambda run: run.model.transformer.remat == "full")
    options = replace(OPTIONS, max_compiles=500)
    result, found, said = search(run_file, compiler, options)
    assert found and result["best"] in said and "--model.transformer.remat full" in result["best"]
    counted = counted_candidates(load_run_file(run_file), V5E, OPTIONS)
    fastest = min(each.seconds for each in counted if each.candidate.remat == "full")
    best = next(each for each in counted if each.candidate.flags == result["best"])
    assert best.seconds == pytest.approx(fastest, rel=1e-2)
    assert [index for _, _, index in compiler.asked[-2:]] == [1, 0]  # the longer rows first


def test_larger_candidates_of_a_mesh_and_policy_that_failed_are_passed_over(run_file: str):
    """And no others: what one mesh has no room for another may have."""
    compiler = Compiler(lambda run: False)
    result, found, said = search(run_file, compiler, PlanOptions("v5e:2x2", max_compiles=500))
    assert not found and "none of the" in said
    least: dict[str, list[int]] = {}
    for row in result["tried"]:
        flags = row["candidate"].split(" --train.accumulation")[0]
        least.setdefault(flags, []).append(row["least_memory"])
    assert all(sizes == sorted(set(sizes), reverse=True) for sizes in least.values())
    counted = counted_candidates(load_run_file(run_file), V5E, OPTIONS)
    assert len(least) == len({(each.candidate.mesh, each.candidate.remat) for each in counted})


def test_results_of_another_program_are_not_taken(run_file: str, tmp_path: Path, monkeypatch):
    options = PlanOptions("v5e:2x2", max_compiles=1, results=tmp_path / "results.json")
    search(run_file, Compiler(lambda run: True), options)
    monkeypatch.setattr("lumina_jax.plan.search._made_with", lambda: ["other sources"])
    second = Compiler(lambda run: False)
    search(run_file, second, options)
    assert second.asked


def test_compiles_are_bounded(run_file: str):
    compiler = Compiler(lambda run: False)
    _, found, _ = search(run_file, compiler, PlanOptions("v5e:2x2", max_compiles=2))
    assert not found and len(compiler.asked) == 2


@pytest.mark.slow
def test_a_second_search_reads_the_results_of_the_first(run_file: str, tmp_path: Path):
    options = PlanOptions("v5e:2x2", max_compiles=500, results=tmp_path / "results.json")
    first = Compiler(lambda run: run.model.transformer.remat == "full")
    best = search(run_file, first, options)[0]["best"]
    second = Compiler(lambda run: False)
    assert search(run_file, second, options)[0]["best"] == best
    assert first.asked and not second.asked


def test_file_of_other_results_is_refused(run_file: str, tmp_path: Path):
    (tmp_path / "results.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="not a search's results"):
        search(
            run_file,
            Compiler(lambda run: True),
            PlanOptions("v5e:2x2", results=tmp_path / "results.json"),
        )


def test_flags_give_the_candidate(run_file: str):
    run = load_run_file(run_file)
    chosen = next(c for c in candidates(run, V5E) if len(c.mesh.axes) == 2 and c.accumulation > 1)
    arguments = [run_file, *chosen.flags.split()]
    usage = "usage: train.py RUN_FILE"
    _, parsed = parse_run_file(arguments, lambda _: PlanOptions(), usage=usage, description="")
    assert parsed == chosen.of(run)
