"""Training checkpoints: exact, atomic, verified, and falling back to the one before."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lumina_jax.checkpoint import CheckpointError
from lumina_jax.train import checkpoints as train_checkpoints
from lumina_jax.train.checkpoints import TrainCheckpoints, flatten
from lumina_jax.train.step import State, init_state

OPTIMIZER = optax.adamw(1e-3)


def state_at(step: int) -> State:
    """Every leaf distinct, keys whose order differs from Orbax's, no average."""
    params = {"b": jnp.arange(12.0).reshape(3, 4) + step, "a": {"01": jnp.ones(5, jnp.bfloat16)}}
    return init_state(params, OPTIMIZER)._replace(step=jnp.asarray(step, jnp.int32))


def abstract(state: State, sharding: Any = None) -> State:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state
    )


def assert_same(first: State, second: State) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def save_steps(workdir: Path, *steps: int, keep_last: int = 2, keep_every: int = 0) -> None:
    checkpoints = TrainCheckpoints(workdir, keep_last, keep_every)
    for step in steps:
        checkpoints.save(step, state_at(step), {"step": step, "order": [1, 2]})
    checkpoints.close()


def damage(workdir: Path, step: int) -> None:
    """Flip one bit in every data file of a checkpoint."""
    files = [f for f in (workdir / "checkpoints" / str(step)).rglob("d/*") if f.is_file()]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))


def test_restore_returns_the_newest_exactly(tmp_path: Path):
    save_steps(tmp_path, 1, 2, 3)
    checkpoints = TrainCheckpoints(tmp_path)
    assert checkpoints.steps() == [3, 2]
    restored = checkpoints.restore(abstract(state_at(0)))
    assert restored is not None
    state, meta = restored
    assert_same(state, state_at(3))
    assert meta == {"step": 3, "order": [1, 2]}
    checkpoints.close()


def test_multiples_of_keep_every_stay_beside_the_last(tmp_path: Path):
    save_steps(tmp_path, 2, 3, 4, 6, 7, keep_last=1, keep_every=3)
    save_steps(tmp_path, 8, 9, 11, keep_last=1, keep_every=3)  # a resumed run
    checkpoints = TrainCheckpoints(tmp_path, 1, 3)
    assert checkpoints.steps() == [11, 9, 6, 3]
    checkpoints.close()


def test_fresh_workdir_has_nothing_to_restore(tmp_path: Path):
    checkpoints = TrainCheckpoints(tmp_path)
    assert checkpoints.latest() is None
    assert checkpoints.restore(abstract(state_at(0))) is None
    checkpoints.close()


def test_donated_state_is_saved_as_it_was(tmp_path: Path):
    checkpoints = TrainCheckpoints(tmp_path)
    state = state_at(1)
    checkpoints.save(1, state, {})
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)
    restored = checkpoints.restore(abstract(state_at(0)))
    assert restored is not None
    assert_same(restored[0], state_at(1))
    checkpoints.close()


def test_a_run_of_damaged_checkpoints_is_never_begun_anew(tmp_path: Path):
    save_steps(tmp_path, 1)
    damage(tmp_path, 1)
    for _ in range(2):
        checkpoints = TrainCheckpoints(tmp_path)
        with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
            checkpoints.restore(abstract(state_at(0)))
        checkpoints.close()


def test_leftovers_of_a_kill_are_removed(tmp_path: Path):
    save_steps(tmp_path, 1)
    leftover = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (leftover / "state").mkdir(parents=True)
    checkpoints = TrainCheckpoints(tmp_path)
    assert not leftover.exists()
    assert checkpoints.latest() == 1
    checkpoints.close()


def test_damaged_newest_falls_back_and_is_set_aside(tmp_path: Path, capsys):
    save_steps(tmp_path, 1, 2)
    damage(tmp_path, 2)
    checkpoints = TrainCheckpoints(tmp_path)
    restored = checkpoints.restore(abstract(state_at(0)))
    assert restored is not None
    assert_same(restored[0], state_at(1))
    assert "checkpoints/2" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "damaged-2").is_dir()
    checkpoints.save(2, state_at(2), {})
    checkpoints.wait()
    assert checkpoints.latest() == 2
    checkpoints.close()


@pytest.mark.parametrize("left", [None, b""])
def test_lost_notes_are_damage_too(tmp_path: Path, capsys, left: bytes | None):
    save_steps(tmp_path, 1, 2)
    notes = tmp_path / "checkpoints" / "2" / "_CHECKPOINT_METADATA"
    notes.unlink()
    if left is not None:
        notes.write_bytes(left)
    checkpoints = TrainCheckpoints(tmp_path)
    restored = checkpoints.restore(abstract(state_at(0)))
    assert restored is not None and int(restored[0].step) == 1
    assert "checkpoints/2" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "damaged-2").is_dir()
    checkpoints.close()


def test_silently_changed_values_are_noticed(tmp_path: Path, monkeypatch, capsys):
    save_steps(tmp_path, 1)
    with monkeypatch.context() as patch:
        real = TrainCheckpoints._digest_of
        wrong = {"params.b": 1}
        patch.setattr(TrainCheckpoints, "_digest_of", lambda s, flat: {**real(s, flat), **wrong})
        save_steps(tmp_path, 2)
    checkpoints = TrainCheckpoints(tmp_path)
    restored = checkpoints.restore(abstract(state_at(0)))
    assert restored is not None and int(restored[0].step) == 1
    assert "params.b is damaged" in capsys.readouterr().err
    checkpoints.close()


def test_all_damaged_is_one_clear_error(tmp_path: Path):
    save_steps(tmp_path, 1)
    damage(tmp_path, 1)
    checkpoints = TrainCheckpoints(tmp_path)
    with pytest.raises(CheckpointError, match="every checkpoint is damaged.*--init"):
        checkpoints.restore(abstract(state_at(0)))
    checkpoints.close()


def test_restore_onto_another_mesh(tmp_path: Path):
    save_steps(tmp_path, 1)
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    checkpoints = TrainCheckpoints(tmp_path)
    restored = checkpoints.restore(abstract(state_at(0), NamedSharding(mesh, PartitionSpec())))
    assert restored is not None
    assert_same(restored[0], state_at(1))
    assert len(restored[0].params["b"].sharding.device_set) == 4
    checkpoints.close()


def test_flatten_names_leaves_and_leaves_out_what_is_absent():
    names = list(flatten(state_at(0)))
    assert names[0] == "step" and "params.a.01" in names
    assert not any(name.startswith("ema") for name in names)


def test_checkpoint_of_another_version_is_named_and_left(tmp_path: Path, monkeypatch):
    """Its digests cannot be checked: that is no damage."""
    checkpoints = TrainCheckpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(train_checkpoints, "DIGESTS", "digests")
        checkpoints.save(1, state_at(1), {})
        checkpoints.wait()
    with pytest.raises(ValueError, match="written by another version"):
        checkpoints.restore(abstract(state_at(1)))
    assert (tmp_path / "checkpoints" / "1").is_dir()
    checkpoints.close()
