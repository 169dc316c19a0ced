"""A released checkpoint: same values in bfloat16, same tokenizer, readable."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.checkpoint import load_model, save_model
from lumina_jax.model.presets import PRESETS
from lumina_jax.release import release


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    return save_model(tmp_path / "trained", {"vqgan": {"w": weights}}, PRESETS["scenes"], None)


def test_release_keeps_the_weights_rounded_to_bfloat16(trained: Path, tmp_path: Path):
    before = load_model(trained).params["vqgan"]["w"]
    after = load_model(release(trained, tmp_path / "shipped")).params["vqgan"]["w"]
    assert after.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(before.astype(jnp.bfloat16)), np.asarray(after))


def test_release_refuses_other_dtypes_and_writes_nothing(trained: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="int8.*want bfloat16 or float32"):
        release(trained, tmp_path / "shipped", dtype="int8")
    assert not (tmp_path / "shipped").exists()
