"""Training checkpoints as models to be scored: `evals.kept`."""

import numpy as np
import pytest

from lumina_jax.evals.kept import kept_checkpoints, load_all, load_scored
from lumina_jax.lumina import Lumina
from lumina_jax.train.loop import train


@pytest.mark.slow
def test_a_training_checkpoint_is_the_model_that_its_run_releases(tiny_run, tmp_path):
    outcome = train(tiny_run(), tmp_path / "run")
    last = kept_checkpoints(tmp_path / "run")[-1]
    found, released = load_scored(last), Lumina.load(outcome.model)
    ids = np.array([[0, 5, 9, 3]])
    assert np.array_equal(found.logits(ids), released.logits(ids))
    assert load_all([tmp_path / "run"]) == kept_checkpoints(tmp_path / "run")


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no training checkpoint there"):
        kept_checkpoints(tmp_path)
