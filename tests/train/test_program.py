"""The program of a step is the same for the loop, the benchmark and the plan, and says truly where its arrays lie."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.experiment import LoraConfig, MeshConfig
from lumina_jax.sharding import make_layout
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.program import abstract_batch, check_batches, transformer_program
from lumina_jax.train.trainees import make_trainee

FSDP = MeshConfig("fsdp", (("fsdp", 2),))
PARTS: dict[str, dict[str, Any]] = {
    "all": {},
    "some": {"trainable": ("layers/.*/(gate|up|down)",)},
    "adapters": {"lora": LoraConfig(rank=2)},
}


@pytest.mark.parametrize("part", PARTS)
def test_abstract_state_without_assets_equals_the_trainees(tiny_run, tiny_assets, part: str):
    run = tiny_run(mesh=FSDP, codebook_tables=part == "all", **PARTS[part])
    layout, curriculum = make_layout(FSDP, jax.devices()[:2]), Curriculum(run.train.stages)
    absent = replace(run, assets="no such folder")
    program = transformer_program(absent, curriculum, layout, (4, 64))
    trainee = make_trainee(run, curriculum, layout, tiny_assets if run.train.lora else None)
    wanted = jax.eval_shape(trainee.init, jax.random.key(0))
    places = trainee.shardings(wanted)
    assert jax.tree.structure(program.state) == jax.tree.structure(wanted)
    jax.tree.map(
        lambda got, want, place: np.testing.assert_equal(
            (got.shape, got.dtype, got.sharding), (want.shape, want.dtype, place)
        ),
        program.state,
        wanted,
        places,
    )


@pytest.mark.slow
def test_compiled_step_takes_the_abstract_batch_and_puts_the_state_where_it_says(tiny_run):
    run = tiny_run(mesh=FSDP)
    layout, stage = make_layout(FSDP, jax.devices()[:2]), run.train.stages[0]
    program = transformer_program(run, Curriculum(run.train.stages), layout, (4, 64))
    lowered = program.step.lower(program.state, abstract_batch(stage, layout))
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    state = jax.tree.map(
        lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding), program.state
    )
    batch = {
        name: jax.device_put(np.ones(leaf.shape, leaf.dtype), leaf.sharding)
        for name, leaf in abstract_batch(stage, layout).items()
    }
    after, metrics = compiled(state, batch)
    assert int(after.step) == 1 and np.isfinite(float(metrics["loss"]))
    same = jax.tree.map(
        lambda leaf, want: leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim),
        after,
        program.state,
    )
    assert all(jax.tree.leaves(same))
    table = after.params["embed"]["table"]
    assert table.addressable_shards[0].data.shape[1] == table.shape[1] // 2


def test_batch_of_a_bucket_has_its_tokens(tiny_run):
    layout = make_layout(MeshConfig(), jax.devices()[:2])
    batch = abstract_batch(tiny_run().train.stages[0], layout, 24)
    assert {leaf.shape for leaf in batch.values()} == {(8, 24)}
    assert {"tokens", "labels", "segment_ids", "positions", "tasks", "areas"} == {*batch}


def test_batch_that_the_mesh_cannot_split_is_refused(tiny_run):
    layout = make_layout(MeshConfig(), jax.devices()[:3])
    with pytest.raises(ValueError, match=r"stages.0.batch_size 8 does not divide .*'data': 3"):
        check_batches(tiny_run(), layout)


def test_sequence_that_the_mesh_cannot_split_is_refused(tiny_run):
    layout = make_layout(MeshConfig("sequence", (("sequence", 5),)), jax.devices()[:5])
    with pytest.raises(ValueError, match=r"stages.0: sequences of 48 tokens .* a multiple of 5"):
        check_batches(tiny_run(), layout)
