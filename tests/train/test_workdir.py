"""A run's folder belongs to one config."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lumina_jax.data_config import DataConfig, RecordSource
from lumina_jax.train.workdir import claim_workdir


def test_same_config_claims_again(tiny_run, tmp_path: Path):
    claim_workdir(tiny_run(), tmp_path / "run")
    claim_workdir(tiny_run(), tmp_path / "run")


def test_another_config_is_refused_with_its_first_differences(tiny_run, tmp_path: Path):
    claim_workdir(tiny_run(), tmp_path)
    stages = tiny_run().train.stages
    moved = tiny_run(stages=(replace(stages[0], steps=5), stages[1]), seed=3)
    with pytest.raises(ValueError, match=r"train.stages.0.steps: 4 -> 5; train.seed: 0 -> 3"):
        claim_workdir(moved, tmp_path)


def test_what_does_not_reach_the_weights_may_change(tiny_run, tmp_path: Path):
    claim_workdir(tiny_run(), tmp_path)
    changed = tiny_run(log_every=7, save_every=9, keep_last=5, keep_every=50, max_nonfinite=3)
    claim_workdir(replace(changed, description="again"), tmp_path)


def test_a_held_out_source_may_come_and_go(tiny_run, tmp_path: Path):
    claim_workdir(tiny_run(), tmp_path)
    sources = (*tiny_run().data.sources, RecordSource("rest", "elsewhere"))
    with_rest = replace(tiny_run(), data=DataConfig(sources))
    held_out = replace(with_rest, train=replace(with_rest.train, eval_source="rest"))
    claim_workdir(held_out, tmp_path)
    claim_workdir(with_rest, tmp_path)  # --train.eval-source "", the run file still lists it
    claim_workdir(tiny_run(), tmp_path)
    moved = DataConfig((replace(sources[0], path="moved"), sources[1]))
    with pytest.raises(ValueError, match="data.sources.0.path"):
        claim_workdir(replace(held_out, data=moved), tmp_path)


def test_other_assets_are_refused(tiny_run, tmp_path: Path):
    claim_workdir(tiny_run(), tmp_path, {"vqgan": "a1", "tokenizer": "b1"})
    claim_workdir(tiny_run(), tmp_path, {"vqgan": "a1", "tokenizer": "b1"})
    with pytest.raises(ValueError, match="assets.vqgan: 'a1' -> 'a2'"):
        claim_workdir(tiny_run(), tmp_path, {"vqgan": "a2", "tokenizer": "b1"})


def test_fields_newer_than_the_workdir_have_their_defaults(tiny_run, tmp_path: Path):
    claim_workdir(tiny_run(), tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    del content["train"]["loss"]["logits_chunk"]
    file.write_text(json.dumps(content))
    claim_workdir(tiny_run(), tmp_path)


def test_a_broken_config_is_one_clear_error(tiny_run, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"trainee": ')
    with pytest.raises(ValueError, match="config.json: not a run's config"):
        claim_workdir(tiny_run(), tmp_path)
