"""A real train step, compiled for a slice that is not here, read and compared with what was counted."""

import pytest

from tests.ahead_of_time import found_by

SCRIPT = """
import json
from dataclasses import replace
from lumina_jax.config import TransformerConfig
from lumina_jax.data_config import DataConfig, RecordSource
from lumina_jax.experiment import Experiment, LossConfig, MeshConfig, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS
from lumina_jax.plan.collectives import collectives
from lumina_jax.plan.compile import compile_stage, stage_program
from lumina_jax.plan.hlo import large_buffers
from lumina_jax.plan.layer_loop import LAYERS, layer_loop
from lumina_jax.plan.loops import Program
from lumina_jax.plan.run_plan import least_a_layer, run_layout
from lumina_jax.plan.step import step_of
from lumina_jax.plan.topology import Topology

config = TransformerConfig(
    3, 1024, 8, 8, 128, 2816, 4096, compute_dtype="bfloat16", scan_layers=True, remat="full"
)
stage = Stage(10, 4, 1e-4, (("a", 1.0),), max_tokens=1024, layout="packed")
train = TrainConfig(
    (stage,), loss=LossConfig(logits_chunk=512), mesh=MeshConfig("fsdp", (("fsdp", 4),))
)
data = DataConfig((RecordSource("a", "nowhere"),))
model = replace(PRESETS["7b"], transformer=config)
run = Experiment("transformer", model, data, train, assets="nowhere")

topology = Topology.parse("v5e:2x2")
layout = run_layout(run, topology, True)
compiled = compile_stage(stage_program(run, layout), run, 0, layout)
program, loop = Program(compiled.text), layer_loop(compiled.text, config.num_layers)
print(json.dumps({
    "trips": [each.trips for each in program.loops.values() if LAYERS.search(each.op_name)],
    "devices": program.num_devices,
    "num_loops": loop.num_loops,
    "read": loop.bytes,
    "counted": least_a_layer(step_of(run, stage), layout, topology),
    "waiting": {each.kind: each.bytes for each in loop.sent if not each.asynchronous},
    "largest": large_buffers(compiled.text, 1)[0].bytes,
    "temporary": compiled.temporary,
}))
"""


@pytest.mark.aot
def test_a_compiled_step_sends_about_what_is_counted() -> None:
    """The loop's own program, layers forward and back: measured 0.9998, as norms are summed once after the layers."""
    found = found_by(SCRIPT)
    assert found["trips"] == [3, 3] and found["devices"] == 4 and found["num_loops"] == 2
    assert 0.999 < found["read"] / found["counted"] < 1.01
    # gradients, of four chips, and the first weights of a layer; all other gathers are behind products
    assert set(found["waiting"]) <= {"reduce-scatter", "all-gather"}
    assert found["waiting"].get("all-gather", 0) < 0.12 * found["read"]
    assert 0 < found["largest"] <= found["temporary"]
