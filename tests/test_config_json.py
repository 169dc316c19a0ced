"""Configs as JSON: every preset and every kind of field comes back equal."""

import json

import pytest

from lumina_jax.config import ModelConfig
from lumina_jax.config_json import config_from_dict, config_to_dict, differing_fields
from lumina_jax.data_config import DataConfig, RecordSource, ScenesSource
from lumina_jax.experiment import Experiment, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_preset_round_trip(name: str):
    content = json.loads(json.dumps(config_to_dict(PRESETS[name])))
    assert config_from_dict(ModelConfig, content) == PRESETS[name]


def test_experiment_round_trip_keeps_unions_and_nested_tuples():
    sources = (
        ScenesSource("a", 64, 10, sizes=((64, 32), (32, 64)), tasks=(("depth", 0.5), ("edit", 1))),
        RecordSource("b", "folder"),
    )
    stages = (Stage(3, 2, 1, (("a", 0.25), ("b", 0.75))), Stage(1, 2, 0.5, (("b", 1.0),)))
    experiment = Experiment("vqgan", PRESETS["scenes"], DataConfig(sources), TrainConfig(stages))
    content = json.loads(json.dumps(config_to_dict(experiment)))
    assert config_from_dict(Experiment, content) == experiment


def test_unknown_field_is_named():
    content = config_to_dict(PRESETS["scenes"])
    content["vqgan"]["colour"] = 1
    with pytest.raises(TypeError, match="VQGANConfig has no field colour"):
        config_from_dict(ModelConfig, content)


def test_differing_fields_name_the_paths():
    first = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": 0}
    second = {"a": 2, "b": {"c": [1, 3], "d": "x"}, "new": 5}
    assert differing_fields(first, second) == [
        "a: 1 -> 2",
        "b.c.1: 2 -> 3",
        "gone: 0 -> None",
        "new: None -> 5",
    ]
    assert differing_fields(first, first) == []
    assert differing_fields([1], [1, 2], "x") == ["x: [1] -> [1, 2]"]
