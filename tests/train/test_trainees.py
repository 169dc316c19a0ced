"""What the loop is told about what it trains."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from lumina_jax.data_config import DataConfig, ScenesSource
from lumina_jax.experiment import MeshConfig
from lumina_jax.sharding import make_layout
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.trainees import check_sizes_told, make_trainee


@pytest.mark.parametrize("task", ["text_to_image_any_size", "edit", "depth"])
def test_answers_whose_size_nothing_tells_are_refused(tiny_run, task):
    experiment = tiny_run()
    source = ScenesSource("tiny", 64, 8, tasks=((task, 1.0),))
    told = replace(source, tasks=(("text_to_image", 1.0), ("multi_view", 1.0), ("question", 1.0)))
    plain = replace(experiment.model, image_layout="plain")
    for layout, one in ((experiment.model, source), (plain, told)):
        data = DataConfig((one,))
        check_sizes_told(replace(experiment, model=layout, data=data))
    with pytest.raises(ValueError, match=f"task '{task}' does not tell the size of its answer"):
        check_sizes_told(replace(experiment, model=plain, data=DataConfig((source,))))


def test_released_layers_lie_where_a_checkpoint_is_loaded_to(tiny_run):
    """Stacked layers of a mesh of eight: unstacked for the checkpoint without gathering, the same numbers."""
    mesh = MeshConfig("fsdp", (("fsdp", 8),))
    experiment = tiny_run(mesh=mesh)
    transformer = replace(experiment.model.transformer, scan_layers=True)
    experiment = replace(experiment, model=replace(experiment.model, transformer=transformer))
    trainee = make_trainee(experiment, Curriculum(experiment.train.stages), make_layout(mesh))
    abstract = jax.eval_shape(trainee.init, jax.random.key(0))
    start = jax.jit(trainee.init, out_shardings=trainee.shardings(abstract))
    state = start(jax.random.key(0))
    released = trainee.release(state)["transformer"]
    places = trainee.weight_shardings()
    assert jax.tree.structure(released) == jax.tree.structure(places)
    for leaf, place in zip(jax.tree.leaves(released), jax.tree.leaves(places), strict=True):
        assert leaf.sharding == place
    np.testing.assert_array_equal(released["layers"]["01"]["q"], state.params["layers"]["q"][1])
