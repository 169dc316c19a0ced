"""What the table of large runs calls a problem, and what it forgives."""

from typing import Any

import pytest

from benchmarks.plans import FIRST, MIB, Plan, judged, problems

GATHERS = {"kind": "all-gather", "asynchronous": True, "crosses_slices": False, "count": 12}


def stage(**changes: Any) -> dict[str, Any]:
    """A compiled stage without problems, as JSON."""
    loop = {"num_loops": 2, "bytes": 105.0 * MIB, "sent": [{**GATHERS, "bytes": 105.0 * MIB}]}
    plain = {"fits": True, "least": 100.0 * MIB, "compiled": {"peak": 1}, "loop": loop}
    return {**plain, "buffers": [], **changes}


def waiting(mib: float) -> dict[str, Any]:
    sent = {**GATHERS, "asynchronous": False, "count": 2, "bytes": mib * MIB}
    return stage(loop={**stage()["loop"], "sent": [*stage()["loop"]["sent"], sent]})


def buffer(op_name: str) -> dict[str, Any]:
    return {"name": "fusion.1", "shape": "f32[2,4096,65536]", "bytes": 2**31, "op_name": op_name}


def test_a_step_within_its_bounds_has_no_problems() -> None:
    elsewhere = "jit(run_step)/jvp(Chameleon)/broadcast_in_dim"
    assert problems(stage()) == problems(stage(buffers=[buffer(elsewhere)])) == []


@pytest.mark.parametrize(
    ("found", "kinds"),
    [
        (stage(fits=False), ["memory"]),
        (stage(fits=False, compiled=None, loop=None, buffers=None), ["memory"]),
        (stage(least=90.0 * MIB), ["bytes"]),
        (stage(loop={**stage()["loop"], "num_loops": 0}), ["bytes"]),
        (waiting(64), ["synchronous"]),
        (stage(buffers=[buffer("jit(run_step)/transpose(jvp())/while/body/mul")]), ["loss"]),
    ],
)
def test_each_bound_is_held(found: dict[str, Any], kinds: list[str]) -> None:
    assert [problem.kind for problem in problems(found)] == kinds
    assert judged(Plan("run", ""), {"stages": [found]})[1]


def test_known_problems_are_told_and_forgiven_up_to_their_size() -> None:
    plan = Plan("run", "", (FIRST,))
    lines, failed = judged(plan, {"stages": [waiting(63.8)]})
    assert not failed and len(lines) == 1 and FIRST.reason in lines[0]
    assert judged(plan, {"stages": [waiting(65)]})[1]
    lines, failed = judged(plan, {"stages": [stage()]})
    assert not failed and lines == [f"no longer so, remove it from PLANS: {FIRST.reason}"]


def test_text_that_cannot_be_read_is_said() -> None:
    lines, failed = judged(Plan("run", ""), {"stages": [stage(loop=None, buffers=None)]})
    assert not failed and "could not be read" in lines[0]
