"""Which loops of a compiled step are those over layers, and what a layer sends in them."""

import pytest

from lumina_jax.plan.layer_loop import layer_loop

FORWARD, BACKWARD = (
    "jit(run_step)/jvp(Chameleon)/while",
    "jit(run_step)/transpose(jvp(Chameleon))/while",
)
LOSS = "jit(run_step)/jvp()/while"
RECEIVED = 4 * 8 * 2 * 3  # of a gather over four devices


def gather(name: str, op_name: str) -> str:
    return (
        f"  %{name} = bf16[16,8]{{1,0}} all-gather(%a), replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}, "
        f'metadata={{op_name="{op_name}/body/closed_call/gathered"}}\n'
    )


def loop(name: str, op_name: str, trips: int, gathers: int, named: bool = True) -> tuple[str, str]:
    """A body with so many gathers, and the instruction that runs it."""
    body = f"%{name} (p.{name}: bf16[4,8]) -> bf16[4,8] {{\n  %a = bf16[4,8]{{1,0}} parameter(0)\n"
    body += "".join(gather(f"{name}.{index}", op_name) for index in range(gathers)) + "}\n\n"
    told = f', metadata={{op_name="{op_name}"}}' if named else ""
    run = f"  %while.{name} = bf16[4,8]{{1,0}} while(%a), condition=%c, body=%{name}{told}, "
    return body, run + f'backend_config={{"known_trip_count":{{"n":"{trips}"}}}}\n'


def program(*loops: tuple[str, str], outside: str = "") -> str:
    main = "ENTRY %main (p: bf16[4,8]) -> bf16[4,8] {\n  %a = bf16[4,8]{1,0} parameter(0)\n"
    runs = "".join(run for _, run in loops)
    return (
        "HloModule jit_step, num_partitions=4\n"
        + "".join(body for body, _ in loops)
        + main
        + runs
        + outside
        + "}\n"
    )


def test_a_loss_in_as_many_chunks_is_no_loop_over_layers() -> None:
    text = program(loop("f", FORWARD, 6, 2), loop("l", LOSS, 6, 5), loop("b", BACKWARD, 6, 3))
    found = layer_loop(text, 6)
    assert (found.num_loops, found.bytes) == (2, 5 * RECEIVED)
    assert [(each.kind, each.asynchronous, each.count) for each in found.sent] == [
        ("all-gather", False, 5)
    ]


def test_micro_batches_are_not_layers_and_a_layer_is_that_of_one() -> None:
    inner, run = loop("f", f"{LOSS}/body/jvp(Chameleon)/while", 6, 2)
    body, outer = loop("micro", "jit(run_step)/while", 6, 0)
    found = layer_loop(program((inner + body.replace("}\n\n", run + "}\n\n"), outer)), 6)
    assert (found.num_loops, found.bytes) == (1, 2 * RECEIVED)


@pytest.mark.parametrize("named", [True, False])
def test_unrolled_loops_with_peeled_turns_give_the_bytes_of_one_layer(named: bool) -> None:
    """Six layers as XLA writes them for GPUs: two turns of two layers each, a layer before and one after."""
    peeled = gather("first", FORWARD) + gather("last", FORWARD)
    text = program(loop("f", FORWARD, 2, 2, named), loop("l", LOSS, 6, 5, named), outside=peeled)
    found = layer_loop(text, 6)
    assert (found.num_loops, found.bytes) == (1, RECEIVED)


def test_layers_apart_are_the_whole_program() -> None:
    found = layer_loop(program(outside=gather("one", LOSS) + gather("two", LOSS)), 6)
    assert (found.num_loops, found.bytes) == (0, 2 * RECEIVED)
