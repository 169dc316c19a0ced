"""What the loop is told about what it trains."""

from dataclasses import replace

import jax
import numpy as np

from lumina_jax.experiment import MeshConfig
from lumina_jax.sharding import make_layout
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.trainees import make_trainee


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
