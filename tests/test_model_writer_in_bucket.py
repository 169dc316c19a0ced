"""A model written group by group into a bucket: resumed after a kill, there only when it is complete."""

import numpy as np
import pytest

from lumina_jax import paths
from lumina_jax.checkpoint import CheckpointError, digest, load_model, save_model
from lumina_jax.model.presets import PRESETS
from lumina_jax.model_writer import ModelWriter

CONFIG = PRESETS["scenes"]
SOURCE = {"folder": "release", "dtype": "float32"}
GROUPS = [{f"transformer/layers/{i:02d}/q": np.full((3, 4), i, np.float32)} for i in range(3)]


def whole() -> dict:
    layers = {f"{i:02d}": {"q": np.full((3, 4), i, np.float32)} for i in range(3)}
    return {"transformer": {"layers": layers}}


def test_interrupted_twice_it_equals_what_is_saved_at_once(
    fake_gcs, tmp_path, monkeypatch, small_tokenizer
):
    address = f"{fake_gcs.url}/released/model"
    killed = ModelWriter(address, SOURCE)
    killed.write(GROUPS[0])
    killed._wait()
    again = ModelWriter(address, SOURCE)
    assert set(again.digests) == set(GROUPS[0])
    for group in GROUPS[1:]:
        again.write(group)

    real, uploads = paths._is_same, []

    def stop_at_the_third(*arguments):
        uploads.append(arguments)
        if len(uploads) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(paths, "_is_same", stop_at_the_third)
        patch.setattr(paths, "NUM_COPIES", 1)
        with pytest.raises(KeyboardInterrupt):
            again.finish(CONFIG, small_tokenizer)
    assert "released/model/config.json" not in fake_gcs.names()
    with pytest.raises(CheckpointError, match="config.json is missing"):
        load_model(address)

    last = ModelWriter(address, SOURCE)
    assert len(last.digests) == 3
    path = last.finish(CONFIG, small_tokenizer)
    assert str(path) == address and not last.folder.exists()
    assert digest(path) == digest(save_model(tmp_path / "m", whole(), CONFIG, small_tokenizer))
    loaded = load_model(path).params["transformer"]["layers"]
    np.testing.assert_array_equal(np.asarray(loaded["02"]["q"]), GROUPS[2].popitem()[1])


def test_a_complete_model_is_not_written_over(fake_gcs):
    save_model(f"{fake_gcs.url}/model", whole(), CONFIG)
    with pytest.raises(CheckpointError, match="exists: name another destination"):
        ModelWriter(f"{fake_gcs.url}/model", SOURCE)


def test_another_source_is_refused(fake_gcs):
    ModelWriter(f"{fake_gcs.url}/model", SOURCE)
    with pytest.raises(CheckpointError, match="unfinished conversion of something else"):
        ModelWriter(f"{fake_gcs.url}/model", {"folder": "another"})
