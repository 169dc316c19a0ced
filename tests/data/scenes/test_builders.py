"""The TFDS dataset: built without TensorFlow, read back by its folder, equal to what the scenes say."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.builders import (
    build,
    example,
    scene_from_json,
    scene_to_json,
    scenes_config,
)
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import sample_scene

CONFIG = scenes_config(64, num=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    builder = build(tmp_path_factory.mktemp("tfds"), CONFIG)
    return Path(str(builder.data_path))


@pytest.fixture(scope="module")
def examples(folder):
    builder: Any = tfds.builder_from_directory(str(folder))
    return builder.as_data_source("train")


def test_dataset_has_its_examples_in_order(examples):
    assert len(examples) == 6
    captions = [examples[i]["caption"].decode() for i in range(6)]
    assert captions == [example(CONFIG, "train", i)["caption"] for i in range(6)]


def test_images_and_answers_equal_what_the_scene_draws(examples):
    for found in examples:
        scene = scene_from_json(found["scene"])
        size = found["image"].shape[1], found["image"].shape[0]
        assert np.array_equal(found["image"], render(scene, *size))
        for name, answer in maps.ANSWERS.items():
            assert np.array_equal(found[name], answer(scene, *size)), name
        boxes = [box or (0, 0, 0, 0) for box in maps.boxes(scene, *size)]
        assert found["boxes"].tolist() == [list(box) for box in boxes]


def test_questions_and_edits_come_with_every_example(examples):
    for found in examples:
        asked, changed = found["questions"], found["edits"]
        assert len(asked["question"]) == len(asked["answer"]) == len(asked["kind"]) > 0
        assert len(changed["instruction"]) == len(changed["image"]) > 0


def test_example_image_is_png_bytes_of_an_allowed_size():
    found = Image.open(io.BytesIO(example(CONFIG, "validation", 0)["image"]))
    assert found.format == "PNG" and found.width * found.height <= 64 * 64
    assert found.width % 16 == found.height % 16 == 0


def test_splits_differ():
    first, second = (example(CONFIG, split, 0)["scene"] for split in ("train", "validation"))
    assert first != second


def test_reading_imports_no_tensorflow(examples):
    assert examples[0] and "tensorflow" not in sys.modules


def test_building_again_leaves_the_dataset(folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    build(folder.parents[2], CONFIG)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_scene_json_round_trips():
    rng = np.random.default_rng(1)
    for kind in ("single", "two", "count", "mixed"):
        scene = sample_scene(rng, 160, 96, reserved=True, kind=kind)
        assert scene_from_json(scene_to_json(scene)) == scene


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"target_px": 100}, "100"),
        ({"target_px": 16}, "16"),
        ({"num": 0}, "0 examples"),
        ({"seed": -1}, "seed"),
    ],
)
def test_config_refuses_with_one_line(fields, word):
    with pytest.raises(ValueError, match=word) as caught:
        scenes_config(**fields)
    assert "\n" not in str(caught.value)
