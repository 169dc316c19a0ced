"""The embedded dataset as a TFDS dataset: images with captions, scene descriptions, answers and an edit of each.

    python -m lumina_jax.data.scenes.builders --data-dir DIR --target-px 128 --num 10000

builds ArrayRecord shards without TensorFlow; with `--task segmentation`, say, conversations of that task alone. Read
them back by their folder, no code of this package needed:

    tfds.builder_from_directory("DIR/scenes/128px_10000/1.0.0").as_data_source("train")
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lumina_jax.config import GridConfig, require
from lumina_jax.data.recipes import RECIPES
from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.captions import caption
from lumina_jax.data.scenes.edits import edits
from lumina_jax.data.scenes.questions import questions
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import Scene, SceneObject, sample_scene
from lumina_jax.data.task_examples import png, task_example, task_features, task_source
from lumina_jax.data_config import HELD_OUT_SEED
from lumina_jax.dims import pick
from lumina_jax.unirep.grid import crop_sizes

UNIT_PX = 16  # sides are multiples of it
MAX_RATIO = 2.0  # longest side / shortest side
SPLIT_SEEDS = {"train": 0, "validation": 1}
VALIDATION_SHARE = 20  # one validation example for so many training examples


@dataclasses.dataclass(eq=False, kw_only=True)
class ScenesConfig(tfds.core.BuilderConfig):
    """One size of the dataset; its name tells every field that differs from the defaults."""

    target_px: int = 128  # side of the square whose area the images have
    num: int = 10_000  # training examples
    seed: int = 0
    reserved: bool = False  # also the shapes and the colour that the transformer never sees
    task: str = (
        ""  # a row of data.recipes.RECIPES, whose conversations are the examples; "": whole scenes
    )


def scenes_config(
    target_px: int = 128,
    num: int = 10_000,
    seed: int = 0,
    reserved: bool = False,
    task: str = "",
) -> ScenesConfig:
    """A named configuration. Raises ValueError for sizes that hold no image or no example, and unknown tasks."""
    least = 4 * UNIT_PX  # below, objects are no longer readable
    require(
        target_px >= least and target_px % UNIT_PX == 0,
        f"target {target_px} px: want a multiple of {UNIT_PX} from {least} on",
    )
    require(num > 0, f"{num} examples: want at least 1")
    require(seed >= 0, f"seed {seed}: want 0 or more")
    if task:
        pick(RECIPES, task, "task of the scenes")
    name = (f"{task}_" if task else "") + f"{target_px}px_{num}" + (f"_seed{seed}" if seed else "")
    what = f"conversations of the task {task}" if task else "scenes"
    return ScenesConfig(
        name=name + ("_reserved" if reserved else ""),
        description=f"{num} {what} on canvases of about {target_px}x{target_px} pixels.",
        target_px=target_px,
        num=num,
        seed=seed,
        reserved=reserved,
        task=task,
    )


class Scenes(tfds.core.GeneratorBasedBuilder):
    """Lit objects on a background, with every answer that the tasks ask for."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        *[scenes_config(target_px) for target_px in (64, 96, 128, 256)],
        *[scenes_config(task=task) for task in RECIPES],
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        features = _task_features() if self._config().task else self._scene_features()
        return tfds.core.DatasetInfo(
            builder=self,
            description=str(self.__doc__),
            features=tfds.features.FeaturesDict(features),
            supervised_keys=None,
            disable_shuffling=True,  # the order is that of the examples' numbers
        )

    def _scene_features(self) -> dict[str, Any]:
        picture, text = tfds.features.Image(encoding_format="png"), tfds.features.Text()
        answers = dict.fromkeys(maps.ANSWERS, picture)
        asked = tfds.features.Sequence({"kind": text, "question": text, "answer": text})
        changed = tfds.features.Sequence({"kind": text, "instruction": text, "image": picture})
        return {
            "image": picture,
            "caption": text,
            "scene": text,  # JSON, read by `scene_from_json`
            **answers,
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.int32),  # x0, y0, x1, y1
            "questions": asked,
            "edits": changed,
        }

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        num = self._config().num
        sizes = {"train": num, "validation": -(-num // VALIDATION_SHARE)}
        return {split: self._generate_examples(split, count) for split, count in sizes.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(count):
            yield index, example(self._config(), split, index)

    def _config(self) -> ScenesConfig:
        if not isinstance(self.builder_config, ScenesConfig):
            raise ValueError(f"config {self.builder_config!r}: want one made by `scenes_config`")
        return self.builder_config


def example(config: ScenesConfig, split: str, index: int) -> dict[str, Any]:
    """Example `index` of a split: a pure function of its arguments; pictures as PNG bytes."""
    grid = GridConfig(patch_px=UNIT_PX, unit_px=UNIT_PX, max_ratio=MAX_RATIO)
    sizes = crop_sizes(config.target_px, grid)
    size = sizes[index % len(sizes)]
    if config.task:
        return _task_example(config, split, size, index)
    rng = np.random.default_rng((config.seed, SPLIT_SEEDS[split], index))
    scene = sample_scene(rng, *size, reserved=config.reserved)
    found = [box or (0, 0, 0, 0) for box in maps.boxes(scene, *size)]
    side_px = float(np.sqrt(size[0] * size[1]))
    return {
        "image": png(render(scene, *size)),
        "caption": caption(scene, rng),
        "scene": scene_to_json(scene),
        **{name: png(answer(scene, *size)) for name, answer in maps.ANSWERS.items()},
        "boxes": np.array(found, np.int32).reshape(-1, 4),
        "questions": [dataclasses.asdict(question) for question in questions(scene, rng)],
        "edits": [
            {"kind": e.kind, "instruction": e.instruction, "image": png(render(e.scene, *size))}
            for e in edits(scene, rng, side_px)
        ],
    }


def scene_to_json(scene: Scene) -> str:
    """A scene as JSON; `scene_from_json` is the inverse."""
    return json.dumps(dataclasses.asdict(scene))


def scene_from_json(text: str | bytes) -> Scene:
    """The scene that `scene_to_json` wrote."""
    content = json.loads(text)
    objects = []
    for fields in content["objects"]:
        pose = fields["pose"]
        objects.append(SceneObject(**{**fields, "pose": None if pose is None else tuple(pose)}))
    return Scene(**{**content, "objects": tuple(objects)})


def _task_features() -> dict[str, Any]:
    """`task_features` of this library."""
    return task_features(
        lambda: tfds.features.Image(encoding_format="png"),
        tfds.features.Text(),
        tfds.features.Sequence,
    )


def _task_example(
    config: ScenesConfig, split: str, size: tuple[int, int], index: int
) -> dict[str, Any]:
    """A conversation of a task; the splits' sources have seeds of their own, made of the config's."""
    words = np.random.SeedSequence((config.seed, SPLIT_SEEDS[split])).generate_state(1)
    seed = int(words[0]) % HELD_OUT_SEED
    source = task_source(config.task, config.target_px, config.num, seed, config.reserved)
    return task_example(source, size, index)


def build(data_dir: str | Path, config: ScenesConfig, num_shards: int = 1) -> Scenes:
    """Write the dataset under `data_dir`; one that is there already is left as it is."""
    builder = Scenes(data_dir=str(data_dir), config=config, file_format="array_record")
    options = tfds.download.DownloadConfig(num_shards=num_shards)
    builder.download_and_prepare(download_config=options)
    return builder


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What to build, and where."""

    data_dir: Path
    target_px: int = 128  # side of the square whose area the images have
    num: int = 10_000  # training examples; validation has a twentieth
    seed: int = 0
    reserved: bool = False  # also the shapes and the colour that the transformer never sees
    task: str = (
        ""  # conversations of one task, a row of data.recipes.RECIPES, instead of whole scenes
    )
    num_shards: int = 1


def main() -> None:
    """Build from the command line and print the folder."""
    import tyro

    options = tyro.cli(BuildOptions, description=__doc__)
    try:
        config = scenes_config(
            options.target_px, options.num, options.seed, options.reserved, options.task
        )
        print(build(options.data_dir, config, options.num_shards).data_path)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
