"""Projected scaling: machines and meshes for every number of chips, and tables that hold together."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scaling
from lumina_jax.cli import load_run_file
from lumina_jax.plan.roofline import Assumptions

ROOT = Path(__file__).resolve().parents[2]
RUN = load_run_file(ROOT / "configs" / "fp_sft_7b.py")


@pytest.mark.parametrize("chip", scaling.CHIPS)
@pytest.mark.parametrize("count", scaling.COUNTS)
def test_every_number_of_chips_has_a_machine_and_a_mesh(chip: str, count: int) -> None:
    topology = scaling.topology_of(chip, count)
    assert topology.num_devices == count and topology.chip.name == chip
    for rows in (count, 128):
        mesh = scaling.mesh_of(topology, rows)
        assert mesh.num_devices == count
        axes = dict(mesh.axes)
        assert rows % (axes.get("data", 1) * axes["fsdp"]) == 0
        assert axes.get("data", 1) == topology.num_slices


def test_strong_scaling_ends_where_links_bind() -> None:
    rows = scaling.scaling_table(RUN, scaling.strong, Assumptions())
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    by_count = {int(cell[0]): dict(zip(scaling.CHIPS, cell[1:], strict=True)) for cell in cells}
    assert by_count[8]["v5e"] == "no room" and by_count[1024]["v6e"].endswith("(l)")
    efficiency = [float(by_count[n]["a100"].split()[1]) for n in scaling.COUNTS]
    assert efficiency[0] == 1 and efficiency == sorted(efficiency, reverse=True)


def test_the_paper_s_job_takes_as_long_as_its_steps() -> None:
    """All areas are 4, 4 and 2 times the steps; with half the share of peak twice the time, but for what is hidden."""
    once = scaling.paper_run(RUN, "a100:4x8", False, Assumptions())
    every = scaling.paper_run(RUN, "a100:4x8", True, Assumptions())
    assert 2 * once.days < every.days < 4 * once.days
    slow = scaling.paper_run(RUN, "a100:4x8", False, replace(Assumptions(), a100_share=0.35))
    assert 1.8 < slow.days / once.days < 2.1
    assert once.chip_hours == pytest.approx(once.days * 24 * 32)
    with pytest.raises(ValueError, match="v5e:2x4: no room"):
        scaling.paper_run(RUN, "v5e:2x4", False, Assumptions())
