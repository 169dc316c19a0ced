"""The order of the data as real processes see it: any number of hosts, of workers, and any start."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lumina_jax.data.records import make_record, pack_record
from lumina_jax.data.shards import finish, shard_name, write_shard

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
import jax
import numpy as np
folder, out, workers, start, address, count, index = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
assert jax.process_count() == int(count)
from lumina_jax.config import ModelConfig, TransformerConfig
from lumina_jax.data.sources import batches_of
from lumina_jax.data.stepwise import Rows
from lumina_jax.data_config import DataConfig
from lumina_jax.experiment import Experiment, Stage, TrainConfig
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.unirep.vocab import Vocab

mixture = (("one", 2.0), ("two", 1.0))
stages = (
    Stage(6, 8, 0.1, mixture, max_tokens=40, layout="packed"),
    Stage(5, 4, 0.1, mixture, max_tokens=20, layout="buckets", buckets=(8, 12, 20)),
    Stage(4, 8, 0.1, mixture, max_tokens=20),
)
model = ModelConfig(TransformerConfig(1, 8, 1, 1, 8, 8, 64))
run = Experiment("transformer", model, DataConfig(num_workers=int(workers)), TrainConfig(stages))
vocab = Vocab(2048, 0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 8)
folders = {name: f"{folder}/{name}" for name, _ in mixture}
rows = Rows((jax.process_index(),), jax.process_count())
found = {}
for step, batch in enumerate(batches_of(run, Curriculum(stages), folders, vocab, rows)(int(start))):
    found |= {f"{step + int(start)}-{name}": array for name, array in batch.items()}
np.savez(out, **found)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of records of an image's layout: half of their contexts may be dropped."""
    root, rng = tmp_path_factory.mktemp("records"), np.random.default_rng(0)
    for name, num_records in (("one", 90), ("two", 31)):
        lengths = rng.integers(7, 20, num_records).tolist()
        records = []
        for index, length in enumerate(lengths):
            tokens = np.array([0, 100 + index, *rng.integers(300, 2048, length - 4), 5, 3])
            labels = np.where(np.arange(length) > length // 2, tokens, -100)
            records.append(pack_record(make_record(tokens, labels, source=name, index=index)))
        (root / name).mkdir()
        for shard in range(2):
            part = records[shard * 15 : (shard + 1) * 15 if shard == 0 else None]
            write_shard(root / name / shard_name(shard, 2), part)
        finish(root / name, num_records, {}, lengths)
    return root


def batches(folders: Path, out: Path, count: int, workers: int, start: int = 0) -> dict:
    """{"3-tokens": [B,S], …} of global batches, put together of what `count` processes loaded."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    processes, files = [], [out / f"{count}-{workers}-{start}-{i}.npz" for i in range(count)]
    for index, file in enumerate(files):
        command = [sys.executable, "-c", SCRIPT, str(folders), str(file), str(workers)]
        command += [str(start), f"127.0.0.1:{port}", str(count), str(index)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    parts = [np.load(file) for file in files]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def whole(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return batches(folders, tmp_path_factory.mktemp("whole"), 1, 0)


@pytest.mark.multihost
@pytest.mark.parametrize(("count", "workers"), [(1, 2), (2, 0), (2, 2), (4, 0), (4, 2)])
def test_order_does_not_depend_on_processes_and_workers(count, workers, folders, whole, tmp_path):
    found = batches(folders, tmp_path, count, workers)
    assert found.keys() == whole.keys() and len(found) == 15 * 6
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert len({whole[f"{step}-tokens"].shape for step in range(6, 11)}) > 1  # several buckets


@pytest.mark.multihost
def test_resumed_on_other_processes_the_rest_is_the_same(folders, whole, tmp_path):
    found = batches(folders, tmp_path, 2, 2, start=4)
    assert len(found) == 11 * 6
    for name, array in found.items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)
