"""Folders of records: lengths where a stage plans with them, and no ids of another tokenizer or VQGAN."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lumina_jax.config import ModelConfig, TransformerConfig
from lumina_jax.data.records import make_record, pack_record
from lumina_jax.data.shards import finish, shard_name, write_shard
from lumina_jax.data.sources import (
    batches_of,
    check_made_with,
    lengths_of,
    open_records,
    record_ids_of,
    records_digest,
)
from lumina_jax.data.stepwise import Rows
from lumina_jax.data_config import DataConfig
from lumina_jax.experiment import Experiment, Stage, TrainConfig
from lumina_jax.train.curriculum import Curriculum

OURS = {"tokenizer": "t0", "vqgan": "v0"}
MODEL = ModelConfig(TransformerConfig(1, 8, 1, 1, 8, 8, 64))


def experiment(*stages: Stage, **data) -> Experiment:
    return Experiment("transformer", MODEL, DataConfig(**data), TrainConfig(stages))


def folder_of(path: Path, lengths: list[int] | None, notes: dict[str, str]) -> Path:
    """Ten records of four tokens."""
    path.mkdir()
    tokens = np.arange(4)
    records = [pack_record(make_record(tokens, tokens, source="a", index=i)) for i in range(10)]
    write_shard(path / shard_name(0, 1), records)
    finish(path, 10, notes, lengths)
    return path


@pytest.mark.parametrize("name", OURS)
def test_records_of_other_assets_are_refused(name, tmp_path):
    folder = folder_of(tmp_path / "a", None, {**OURS, name: "other"})
    with pytest.raises(
        ValueError, match=rf"a: its records were made with another {name} \(other\)"
    ):
        check_made_with(folder, OURS)


@pytest.mark.parametrize("notes", [{}, OURS, {"vqgan": "v0"}])
def test_records_of_the_same_or_unnamed_assets_are_taken(notes, tmp_path):
    check_made_with(folder_of(tmp_path / "a", None, notes), OURS)


def test_a_folder_that_is_not_complete_is_refused(tmp_path):
    """Its index is written last; a shard that is lost later is missed in the count."""
    folder = folder_of(tmp_path / "a", None, {})
    shutil.copy(folder / shard_name(0, 1), folder / shard_name(1, 2))
    with pytest.raises(ValueError, match=r"a: holds 20 records, its index.json says 10"):
        open_records(folder)
    (folder / "index.json").unlink()
    for read in (open_records, partial(check_made_with, made_with=OURS), records_digest):
        with pytest.raises(ValueError, match="a: no index.json there, so not all of its records"):
            read(folder)


def test_digest_follows_how_records_were_made_and_how_long_they_are(tmp_path):
    made = [
        ("a", [4] * 10, {"seed": 0}),
        ("b", [4] * 10, {"seed": 1}),
        ("c", [5] * 10, {"seed": 0}),
    ]
    digests = [records_digest(folder_of(tmp_path / n, le, notes)) for n, le, notes in made]
    assert len({*digests}) == 3
    assert records_digest(folder_of(tmp_path / "again", [4] * 10, {"seed": 0})) == digests[0]


def test_lengths_are_wanted_where_a_stage_plans_with_them(tmp_path):
    folders = {
        "a": folder_of(tmp_path / "a", [4] * 10, {}),
        "b": folder_of(tmp_path / "b", None, {}),
    }
    padded = Stage(2, 2, 0.1, (("a", 1.0), ("b", 1.0)), max_tokens=8)
    packed = replace(padded, mixture=(("a", 1.0),), layout="packed")
    assert {*lengths_of(folders, experiment(padded))} == {"a"}
    assert lengths_of(folders, experiment(padded, packed))["a"].tolist() == [4] * 10
    with pytest.raises(FileNotFoundError, match="write the records again to pack them"):
        lengths_of(folders, experiment(padded, packed, too_long="skip"))


def test_batches_come_from_the_folders(tmp_path, small_tokenizer):
    folders = {"a": folder_of(tmp_path / "a", [4] * 10, {})}
    run = experiment(Stage(3, 2, 0.1, (("a", 1.0),), max_tokens=12, layout="packed"))
    make = batches_of(run, Curriculum(run.train.stages), folders, small_tokenizer.vocab, Rows())
    found = list(make(1))
    assert len(found) == 2
    assert found[0]["segment_ids"].max() == 3 and found[0]["tokens"].shape == (2, 12)
    names = record_ids_of(run, Curriculum(run.train.stages), folders)(1)
    assert len(names) == found[0]["segment_ids"].max(axis=1).sum()
    assert {*names} <= {f"a#{index}" for index in range(10)}
