"""Several processes on one folder: one that starts beside, a disk that is not shared, what is waited for."""

import json
from pathlib import Path

import numpy as np
import pytest
from jax.experimental import multihost_utils

from lumina_jax.data.pretokenize import parts
from lumina_jax.data.pretokenize.folder import SETTINGS, begin
from lumina_jax.data.pretokenize.parts import Part, check_shared, wait_for_all
from lumina_jax.data.shards import shard_name


def test_another_process_may_begin_the_folder_meanwhile(tmp_path, monkeypatch):
    begin(tmp_path / "other", {"seed": 1})
    content = (tmp_path / "other" / SETTINGS).read_text()
    real = Path.iterdir

    def iterdir(path: Path):
        (path / SETTINGS).write_text(content)
        (path / "00000-of-00002.json").write_text("{}")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    begin(tmp_path / "a", {"seed": 1})
    with pytest.raises(ValueError, match="was begun with seed 1, now it is 2"):
        begin(tmp_path / "b", {"seed": 2})
    assert json.loads((tmp_path / "b" / SETTINGS).read_text())["seed"] == 1


def test_a_disk_that_is_not_shared_is_refused_by_all(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "SEEN_SECONDS", 0.0)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda value: value)
    others = [1]
    monkeypatch.setattr(
        multihost_utils, "process_allgather", lambda seen: np.array([*others, seen])
    )
    check_shared(tmp_path / "first", Part(0, 2))
    assert not list((tmp_path / "first").iterdir())
    with pytest.raises(ValueError, match="process 1 does not see .* on a disk that all"):
        check_shared(tmp_path / "second", Part(1, 2))
    others[0] = 0
    with pytest.raises(ValueError, match="process 0 does not see"):
        check_shared(tmp_path / "first", Part(0, 2))


def test_what_is_waited_for_is_said(tmp_path, monkeypatch, capsys):
    missing = [shard_name(shard, 3) for shard in (1, 2)]
    (tmp_path / shard_name(0, 3)).touch()
    monkeypatch.setattr(parts, "SAY_SECONDS", 0.0)
    monkeypatch.setattr(parts.time, "sleep", lambda _: (tmp_path / missing.pop(0)).touch())
    wait_for_all(tmp_path, 3)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(
        "waits for 2 shards of other processes, 00001-of-00003.array_record first"
    )
    assert "waits for 1 shards" in second
