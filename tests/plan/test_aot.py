"""A real train step, compiled for a slice that is not here, read and compared with what was counted."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json
import jax
import jax.numpy as jnp
from lumina_jax.config import ModelConfig, TransformerConfig
from lumina_jax.experiment import LossConfig, MeshConfig, OptimizerConfig
from lumina_jax.model.params import init_params, param_letters
from lumina_jax.plan.collectives import collectives, received
from lumina_jax.plan.costs import Step
from lumina_jax.plan.hlo import large_buffers
from lumina_jax.plan.loops import Program
from lumina_jax.plan.messages import messages, per_layer
from lumina_jax.plan.topology import Topology
from lumina_jax.sharding import batch_sharding, make_layout, replicated, state_shardings
from lumina_jax.train.optimizer import make_optimizer
from lumina_jax.train.step import init_state, make_train_step

ROWS, COLUMNS = 4, 1024
config = TransformerConfig(
    3, 1024, 8, 8, 128, 2816, 4096, compute_dtype="bfloat16", scan_layers=True, remat="full"
)
layout = make_layout(MeshConfig("fsdp", (("fsdp", 4),)), Topology.parse("v5e:2x2").devices())
optimizer = make_optimizer(OptimizerConfig(), lambda step: 1e-4)
state = jax.eval_shape(lambda key: init_state(init_params(config, key), optimizer), jax.random.key(0))
places = state_shardings(state, param_letters(config), layout)
state = jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, places
)
names = ("tokens", "labels", "segment_ids", "positions")
row = jax.ShapeDtypeStruct((ROWS, COLUMNS), jnp.int32, sharding=batch_sharding(layout))
key = jax.eval_shape(lambda: jax.random.key(0))
key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(layout))
step = make_train_step(ModelConfig(config), LossConfig(logits_chunk=512), optimizer, 0.0, layout)
compiled = jax.jit(step, out_shardings=(places, replicated(layout)), donate_argnums=0).lower(
    state, dict.fromkeys(names, row), key
).compile()

text = compiled.as_text()
program = Program(text)
found = collectives(program)
outer = [loop for loop in program.loops.values() if not loop.around and "Chameleon" in loop.op_name]
counted = per_layer(messages(Step(config, ROWS, COLUMNS, logits_chunk=512), layout), config)
print(json.dumps({
    "trips": [loop.trips for loop in outer],
    "devices": program.num_devices,
    "read": sum(received(program, found, loop.body) for loop in outer),
    "counted": sum(message.bytes for message in counted),
    "asynchronous": sum(each.asynchronous for each in found),
    "largest": large_buffers(text, 1)[0].bytes,
    "temporary": compiled.memory_analysis().temp_size_in_bytes,
}))
"""


@pytest.mark.aot
def test_a_compiled_step_sends_about_what_is_counted() -> None:
    """Layers forward and back: never less than the least, and not much more, windowed products' last round for one."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install -r requirements-tpu.txt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["trips"] == [3, 3] and found["devices"] == 4
    assert 1.0 <= found["read"] / found["counted"] < 1.4
    assert found["asynchronous"] > 0
    assert 0 < found["largest"] <= found["temporary"]
