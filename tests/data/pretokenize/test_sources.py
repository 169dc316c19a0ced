"""Sources: told apart by looking, read at random, and clear about what cannot be read."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from lumina_jax.data.pretokenize.examples import BadInput, FileRange, Source
from lumina_jax.data.pretokenize.options import SourceOptions
from lumina_jax.data.pretokenize.sources import open_source
from tests.data.pretokenize.pictures import encoded, scene

TALK = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}


def everything(source: Source) -> list:
    """(captions or turns, images' names, place) of every example, or why there is none."""
    found = []
    for index in reversed(range(source.count)):
        try:
            example = source.read(index)
            images = [one.name for one in example.images if isinstance(one, FileRange)]
            found.append((example.captions or example.turns, images, str(example.where)))
        except BadInput as error:
            found.append((str(error.where), error.reason))
    return found[::-1]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_list_is_read_with_the_lines_of_its_elements(tmp_path: Path, indent: int | None):
    records = [{**TALK, "image": ["b/x.png", "y.png"]}, {"caption": "c", "image": "x.png"}, 3, TALK]
    file = tmp_path / "list.json"
    file.write_text("\ufeff \n" + json.dumps(records, indent=indent), "utf-8")
    source = open_source(file, SourceOptions())
    lines = [2] * 4 if indent is None else [3, 19, 23, 24]
    turns = TALK["conversations"]
    assert everything(source) == [
        (turns, ["b/x.png", "y.png"], f"{file}:{lines[0]}"),
        (("c",), ["x.png"], f"{file}:{lines[1]}"),
        (f"{file}:{lines[2]}", "a int, want an object"),
        (turns, [], f"{file}:{lines[3]}"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{},\n{} {}]", "list.json:2: no JSON list .expecting ',' or ']'"),
        ("[{},\n\n{,}]", "list.json:3: no JSON list"),
        ("[{}", "list.json:1: no JSON list"),
        ("[{}]\n[", "list.json:1: no JSON list .text after"),
        ("[]", "holds no examples"),
    ],
)
def test_a_broken_list_is_one_error_with_its_line(tmp_path: Path, text: str, message: str):
    file = tmp_path / "list.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source(file, SourceOptions())


def test_tfds_datasets_are_read_whatever_their_captions_are_called(tmp_path: Path):
    import tensorflow_datasets as tfds

    images = [encoded(scene(number), "png")[0] for number in range(3)]

    class Coco(tfds.core.GeneratorBasedBuilder):
        """As coco_captions: several captions in a sequence of dictionaries."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            kinds = tfds.features
            words = kinds.Sequence({"text": kinds.Text(), "id": np.int64})
            features = kinds.FeaturesDict(
                {"image": kinds.Image(), "captions": words, "n": np.int64}
            )
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, image in enumerate(images):
                texts = [{"text": f"{number} {word}", "id": 0} for word in ("dome", "ring")]
                yield number, {"image": io.BytesIO(image), "captions": texts, "n": number}

    builder = Coco(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    for path, options in (
        (Path(builder.data_dir), SourceOptions()),
        (Path("coco"), SourceOptions(tfds_dir=tmp_path, caption_field="captions/text")),
    ):
        source = open_source(path, options)
        assert (source.kind, source.count) == ("tfds", 3)
        example = source.read(2)
        assert example.captions == ("2 dome", "2 ring") and example.images == (images[2],)
        assert str(example.where) == f"{path}/train#2"
    with pytest.raises(ValueError, match="not read as a TFDS dataset .*prepare it with"):
        open_source(Path(builder.data_dir), SourceOptions(split="test"))
    with pytest.raises(
        ValueError, match="nothing_like_it: no such file or folder, and not read as"
    ):
        open_source(Path("nothing_like_it"), SourceOptions())


def test_a_folder_of_several_tables_asks_which(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(json.dumps(TALK))
    (tmp_path / "b.csv").write_text("image,caption\n")
    with pytest.raises(ValueError, match="holds a.jsonl, b.csv; name one of them"):
        open_source(tmp_path, SourceOptions())
    assert open_source(tmp_path / "a.jsonl", SourceOptions()).kind == "json"
    with pytest.raises(ValueError, match=r"b.txt: want .json, .jsonl"):
        (tmp_path / "b.txt").write_text("")
        open_source(tmp_path / "b.txt", SourceOptions())
    with pytest.raises(ValueError, match="sources are local"):
        open_source(Path("gs://bucket/x"), SourceOptions())
