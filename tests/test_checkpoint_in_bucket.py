"""Model checkpoints in a bucket: exact, complete or absent, replaced at once, and clear about what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lumina_jax import checkpoint
from lumina_jax.checkpoint import CheckpointError, digest, load_model, read_config, save_model
from lumina_jax.model.presets import PRESETS

CONFIG = PRESETS["scenes"]


def trees(offset: float = 0.0) -> dict:
    transformer = {"layers": {"00": {"q": jnp.arange(64.0).reshape(8, 8) + offset}}}
    return {"transformer": transformer, "vqgan": {"e": jnp.full(6, 1 + offset, jnp.bfloat16)}}


def assert_same(first: dict, second: dict) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(first), jax.device_get(second))


def weights_of(fake_gcs, name: str = "model") -> list[str]:
    """The objects that hold arrays."""
    return [n for n in fake_gcs.names() if n.startswith(f"{name}/params") and "/d/" in n]


def test_round_trip_gives_the_digest_of_a_local_one(fake_gcs, tmp_path, small_tokenizer):
    address = f"{fake_gcs.url}/runs/model"
    path = save_model(address, trees(), CONFIG, small_tokenizer, {"step": 5})
    loaded = load_model(address)
    assert str(path) == address and loaded.config == CONFIG
    assert_same(loaded.params, trees())
    assert loaded.tokenizer.fingerprint == small_tokenizer.fingerprint
    assert read_config(path)[1] == {"step": 5}
    assert digest(address) == digest(save_model(tmp_path / "m", trees(), CONFIG, small_tokenizer))


def test_eight_devices_restore_their_parts(fake_gcs):
    place = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    path = save_model(f"{fake_gcs.url}/model", trees(), CONFIG)
    wanted = jax.tree.map(lambda _: place, trees()["transformer"])
    loaded = load_model(path, parts=("transformer",), shardings={"transformer": wanted})
    leaf = loaded.params["transformer"]["layers"]["00"]["q"]
    assert leaf.sharding == place and {s.data.shape for s in leaf.addressable_shards} == {(1, 8)}
    np.testing.assert_array_equal(np.asarray(leaf), trees()["transformer"]["layers"]["00"]["q"])


def test_saving_again_leaves_one_set_of_weights(fake_gcs):
    for offset in (0.0, 7.0, 7.0):
        path = save_model(f"{fake_gcs.url}/model", trees(offset), CONFIG)
        assert_same(load_model(path).params, trees(offset))
        folders = {name.split("/")[1] for name in fake_gcs.names()}
        assert len(folders) == 2 and "config.json" in folders


def test_killed_before_the_config_leaves_the_old_one(fake_gcs, monkeypatch):
    path = save_model(f"{fake_gcs.url}/model", trees(), CONFIG)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_config", stop)
        with pytest.raises(KeyboardInterrupt):
            save_model(path, trees(7.0), CONFIG)
    assert_same(load_model(path).params, trees())
    assert_same(load_model(save_model(path, trees(9.0), CONFIG)).params, trees(9.0))
    assert len({name.split("/")[1] for name in fake_gcs.names()}) == 2


def test_a_flipped_byte_is_refused_in_one_line(fake_gcs):
    path = save_model(f"{fake_gcs.url}/model", trees(), CONFIG)
    for name in weights_of(fake_gcs):
        content = bytearray(fake_gcs.get(name))
        content[len(content) // 2] ^= 1
        fake_gcs.put(name, bytes(content))
    with pytest.raises(CheckpointError, match=str(path)) as refusal:
        load_model(path)
    assert len(str(refusal.value).splitlines()) == 1


def test_changed_values_are_refused_by_name(fake_gcs, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("lumina_jax.checksums.host_digest", lambda leaf: 0)
        path = save_model(f"{fake_gcs.url}/model", trees(), CONFIG)
    with pytest.raises(CheckpointError, match="transformer/layers/00/q is damaged"):
        load_model(path)


def test_missing_objects_are_refused_in_one_line(fake_gcs):
    with pytest.raises(CheckpointError, match="nowhere: no checkpoint there"):
        load_model(f"{fake_gcs.url}/nowhere")
    path = save_model(f"{fake_gcs.url}/model", trees(), CONFIG)
    for name in weights_of(fake_gcs):
        fake_gcs.delete(name)
    with pytest.raises(CheckpointError, match="unreadable") as refusal:
        load_model(path)
    assert len(str(refusal.value).splitlines()) == 1
    fake_gcs.delete("model/config.json")
    with pytest.raises(CheckpointError, match="config.json is missing"):
        load_model(path)


def test_model_with_another_tokenizer_takes_the_place_of_one(
    fake_gcs, golden_tokenizer, small_tokenizer
):
    """Of another kind, then none: each model has its own or none."""
    address = f"{fake_gcs.url}/model"
    for tokenizer in (golden_tokenizer, small_tokenizer, None):
        save_model(address, trees(), CONFIG, tokenizer)
        found = load_model(address).tokenizer
        assert getattr(found, "fingerprint", None) == getattr(tokenizer, "fingerprint", None)
