"""Every task as a TFDS config: built without TensorFlow, read back, equal to the recipes' conversations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lumina_jax.data.recipes import RECIPES, make_conversation
from lumina_jax.data.scenes.builders import Scenes, build, example, scenes_config
from lumina_jax.data.scenes.scene import RESERVED_COLOURS, RESERVED_SHAPES
from lumina_jax.data.task_examples import task_example, task_source
from lumina_jax.data_config import HELD_OUT_SEED
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER
from lumina_jax.unirep.tasks import TASKS


def test_every_task_is_a_config():
    names = {config.name for config in Scenes.BUILDER_CONFIGS}
    assert {f"{task}_128px_10000" for task in RECIPES} <= names and "128px_10000" in names


@pytest.mark.parametrize("task", RECIPES)
def test_an_example_is_a_conversation_of_its_task(task):
    found = example(scenes_config(64, num=4, task=task), "train", 1)
    assert found["prompt"].count(IMAGE_PLACEHOLDER) == len(found["images"])
    assert found["answer"].count(IMAGE_PLACEHOLDER) == len(found["answer_images"])
    later = sum(turn["answer"].count(IMAGE_PLACEHOLDER) for turn in found["later"])
    assert later == len(found["later_images"])
    row = TASKS[task] if task != "chat" else None  # a chat begins with another task
    assert row is None or row.matches(found["prompt"])


def test_reserved_names_are_left_out_unless_asked_for():
    def words(reserved: bool) -> set[str]:
        source = task_source("describe", 64, 60, 3, reserved)
        return {
            word
            for index in range(60)
            for word in task_example(source, (64, 64), index)["answer"].split()
        }

    strange = {*RESERVED_SHAPES, *RESERVED_COLOURS}
    assert not words(False) & strange and words(True) & strange


def test_splits_and_seeds_differ():
    config, other = (scenes_config(64, num=4, seed=seed, task="describe") for seed in (0, 1))
    found = [example(config, "train", 0), example(config, "validation", 0)]
    found.append(example(other, "train", 0))
    assert len({each["images"][0] for each in found}) == 3


def test_a_dataset_is_read_back_as_it_was_written(tmp_path):
    config = scenes_config(64, num=2, task="edit")
    folder = Path(str(build(tmp_path, config).data_path))
    builder: Any = tfds.builder_from_directory(str(folder))
    for index, found in enumerate(builder.as_data_source("train")):
        seed = int(np.random.SeedSequence((0, 0)).generate_state(1)[0]) % HELD_OUT_SEED
        source = task_source("edit", 64, 2, seed, False)
        wanted = make_conversation(source, found["images"][0].shape[1::-1], index)
        said = [found["prompt"], found["answer"]]
        for prompt, answer in zip(*found["later"].values(), strict=True):
            said += sorted((prompt, answer), key=lambda text: text == b"<|image|>")
        assert [text.decode() for text in said] == [turn["value"] for turn in wanted.turns]
        pictures = [*found["images"], *found["answer_images"], *found["later_images"]]
        assert all(map(np.array_equal, pictures, wanted.images))


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task of the scenes 'paint'"):
        scenes_config(64, task="paint")
