"""Model checkpoints: exact, verified, and clear about what is wrong."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lumina_jax import checkpoint, checksums
from lumina_jax.checkpoint import (
    ASSETS,
    CheckpointError,
    digest,
    load_model,
    read_config,
    resolve,
    save_model,
)
from lumina_jax.model.presets import PRESETS

CONFIG = PRESETS["scenes"]


def trees(offset: float = 0.0) -> dict:
    transformer = {"layers": {"00": {"q": jnp.arange(24.0).reshape(2, 3, 4) + offset}}}
    return {"transformer": transformer, "vqgan": {"e": jnp.full(6, 1 + offset, jnp.bfloat16)}}


def assert_same(first: dict, second: dict) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def data_files(path: Path) -> list[Path]:
    return [file for file in (path / "params").rglob("d/*") if file.is_file()]


def test_round_trip_with_tokenizer(tmp_path: Path, small_tokenizer):
    path = save_model(tmp_path / "model", trees(), CONFIG, small_tokenizer, {"step": 5})
    loaded = load_model(path)
    assert loaded.config == CONFIG
    assert_same(loaded.params, trees())
    assert loaded.tokenizer.fingerprint == small_tokenizer.fingerprint
    assert read_config(path)[1] == {"step": 5}


def test_one_part_is_loaded_alone_and_cast(tmp_path: Path):
    path = save_model(tmp_path / "model", trees(), CONFIG)
    to_float32 = {"vqgan": lambda _, leaf: leaf.astype(jnp.float32)}
    loaded = load_model(path, parts=("vqgan",), keep=to_float32)
    assert set(loaded.params) == {"vqgan"} and loaded.tokenizer is None
    assert loaded.params["vqgan"]["e"].dtype == jnp.float32


def test_loads_into_shardings(tmp_path: Path):
    path = save_model(tmp_path / "model", trees(), CONFIG)
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    place = NamedSharding(mesh, PartitionSpec("data"))
    wanted = jax.tree.map(lambda _: place, trees()["transformer"])
    loaded = load_model(path, shardings={"transformer": wanted})
    assert_same(loaded.params, trees())
    assert loaded.params["transformer"]["layers"]["00"]["q"].sharding == place


def test_weights_of_another_model_are_named(tmp_path: Path):
    path = save_model(tmp_path / "model", trees(), CONFIG)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"transformer": {"layers": {"00": {"q": place, "k": place}}}}
    with pytest.raises(CheckpointError, match=r"lacks \['layers/00/k'\]"):
        load_model(path, shardings=wanted)


def test_saving_again_replaces(tmp_path: Path):
    save_model(tmp_path / "model", trees(), CONFIG)
    path = save_model(tmp_path / "model", trees(7.0), CONFIG)
    assert_same(load_model(path).params, trees(7.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_crash_between_the_renames_leaves_the_old_one(tmp_path: Path, monkeypatch):
    path = save_model(tmp_path / "model", trees(), CONFIG)
    real = checkpoint.os.replace

    def stop_at_second(source: Path, target: Path) -> None:
        if Path(target) == path:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        save_model(path, trees(7.0), CONFIG)
    assert_same(load_model(path).params, trees())


def test_changed_values_are_refused_by_name(tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checksums, "host_digest", lambda leaf: 0)
        path = save_model(tmp_path / "model", trees(), CONFIG)
    with pytest.raises(CheckpointError, match="transformer/layers/00/q is damaged"):
        load_model(path)


def test_flipped_bits_never_load_in_silence(tmp_path: Path):
    path = save_model(tmp_path / "model", trees(), CONFIG)
    for file in data_files(path):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=str(path)):
        load_model(path)


def test_missing_pieces_are_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="nowhere: no checkpoint there"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="config.json is missing"):
        load_model(tmp_path)
    path = save_model(tmp_path / "model", trees(), CONFIG)
    with pytest.raises(CheckpointError, match="none of"):
        load_model(path, parts=("discriminator",))
    for file in data_files(path):
        file.unlink()
    with pytest.raises(CheckpointError, match="unreadable"):
        load_model(path)
    (path / "config.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="format 99"):
        load_model(path)
    (path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="not a checkpoint's config"):
        load_model(path)


def test_another_tokenizer_is_refused(tmp_path: Path, small_tokenizer):
    path = save_model(tmp_path / "model", trees(), CONFIG, small_tokenizer)
    before = digest(path)
    (file,) = [*path.glob("tokenizer.model"), *path.glob("text_tokenizer.json")]
    content = file.read_bytes()
    at = content.index(b"circle")
    file.write_bytes(content[:at] + b"cirkle" + content[at + 6 :])
    with pytest.raises(CheckpointError, match="its tokenizer is damaged"):
        load_model(path)
    file.unlink()
    with pytest.raises(CheckpointError, match="its tokenizer is missing"):
        load_model(path)
    assert digest(save_model(tmp_path / "bare", trees(), CONFIG)) != before


def test_a_folder_named_like_a_shipped_model_does_not_hide_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes" / "1.0.0").mkdir(parents=True)
    assert resolve("scenes").is_relative_to(ASSETS)


def test_no_path_of_this_machine_is_left_in_a_checkpoint(tmp_path: Path):
    path = save_model(tmp_path / "model", trees(), CONFIG)
    texts = [file.read_bytes() for file in path.rglob("*") if file.is_file()]
    assert not any(str(tmp_path).encode() in text for text in texts)
    load_model(path)


def test_a_relative_path_is_as_good_as_an_absolute_one(tmp_path: Path, monkeypatch):
    save_model(tmp_path / "runs" / "model", trees(), CONFIG)
    monkeypatch.chdir(tmp_path)
    assert_same(load_model("runs/model").params, trees())
    assert checkpoint.digest("runs/model") == checkpoint.digest(tmp_path / "runs" / "model")


def test_saving_says_nothing_of_chunk_sizes(tmp_path: Path, caplog):
    """Orbax warns of every array in chunks below 1 MiB."""
    save_model(tmp_path / "model", trees(), CONFIG)
    assert "target_byte_size" not in caplog.text
