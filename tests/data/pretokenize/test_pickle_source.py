"""The original's pickles: read without running them, checked, and made into records of the same ids."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from lumina_jax.data.pretokenize.examples import BadInput
from lumina_jax.data.pretokenize.options import SourceOptions
from lumina_jax.data.pretokenize.pickle_source import read_ids, record_lists
from lumina_jax.data.pretokenize.sources import open_source


class Evil:
    """Writes a file where it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def write_pickles(folder: Path, contents: list[object], parts: int = 1) -> None:
    """A folder as the original's pre-tokenisation leaves it, with paths of another machine."""
    (folder / "files").mkdir(parents=True)
    for index, content in enumerate(contents):
        (folder / "files" / f"{index}.pkl").write_bytes(pickle.dumps(content))
        line = {"file": f"/data/of/others/files/{index}.pkl", "len": 3, "id": index}
        with (folder / f"{index * parts // len(contents)}-of-{parts}-record.jsonl").open(
            "a"
        ) as log:
            log.write(json.dumps(line) + "\n")


def test_ids_come_back_and_nothing_is_run(tmp_path, pretokenize, golden, golden_checkpoint):
    ids, labels = golden["conv_ids"].tolist(), golden["conv_labels"].tolist()
    good, trap = {"token": ids, "label": labels, "id": 7}, tmp_path / "trap"
    wrong = {
        "want a dictionary": Evil(trap),
        "labels for": {**good, "token": ids[:-1]},
        '"token" is no list of whole numbers': {**good, "token": Evil(trap)},
        "label 5 of id 8710": {**good, "label": [*labels[:-1], 5]},
        "an id below 0": {**good, "token": [-1, *ids[1:]]},
        "want ids below 65536": {**good, "token": [2**16, *ids[1:]]},
        "this tokenizer's are below": {"token": [65535], "label": [-100]},
        "want an image code|want id": {
            "token": ids[:20] + ids[21:],
            "label": labels[:20] + labels[21:],
        },
        "token 8: an image code outside": {"token": ids[:30], "label": labels[:30]},
    }
    write_pickles(tmp_path / "src", [good, *wrong.values(), good], parts=2)
    found = pretokenize(tmp_path / "src", "--checkpoint", golden_checkpoint, "--max-bad", 9)
    assert found.code == 0 and not trap.exists(), found.err
    for record in found.records:
        np.testing.assert_array_equal(record.tokens, golden["conv_ids"])
        np.testing.assert_array_equal(record.labels(), golden["conv_labels"])
        assert (record.task, record.size) == ("depth", (96, 96))
    assert [record.index for record in found.records] == [0, 10]
    bad = [json.loads(line) for line in found.bad.splitlines()]
    places = [("0-of-2-record.jsonl", line) for line in (2, 3, 4, 5, 6)]
    places += [("1-of-2-record.jsonl", line) for line in (1, 2, 3, 4)]
    assert [(Path(one["file"]).name, one["line"]) for one in bad] == places
    for reason, one in zip(wrong, bad, strict=True):
        assert re.search(reason, one["reason"]), one


def test_a_list_names_its_pickles(tmp_path: Path):
    write_pickles(tmp_path, [{"token": [5], "label": [-100]}] * 12, parts=12)
    assert [file.name for file in record_lists(tmp_path)][::11] == [
        "0-of-12-record.jsonl",
        "11-of-12-record.jsonl",
    ]
    (tmp_path / "3-of-12-record.jsonl").rename(tmp_path / "3-of-14-record.jsonl")
    with pytest.raises(ValueError, match="no parts of one whole"):
        record_lists(tmp_path)
    (tmp_path / "3-of-14-record.jsonl").unlink()
    with pytest.raises(ValueError, match="11 of 12 parts, without 3-of-12-record.jsonl"):
        record_lists(tmp_path)
    lines = [
        {"file": "files/3.pkl", "len": 1, "id": 3},
        {"file": "../x.pkl", "len": 1},
        {"file": 3},
    ]
    (tmp_path / "all.json").write_text(json.dumps(lines))
    for path in (tmp_path, tmp_path / "all.json"):
        source = open_source(path, SourceOptions())
        assert (source.kind, source.count, source.read(0).id) == ("pickles", 3, "3")
        with pytest.raises(BadInput, match="leads out of"):
            source.read(1)
        with pytest.raises(BadInput, match="want the path of a pickle"):
            source.read(2)


def test_no_pickle_is_refused_with_its_kind():
    for content, reason in (
        (b"", "damaged pickle"),
        (pickle.dumps([1]), "a pickled list, want a dictionary"),
        (pickle.dumps({"token": [True], "label": [1]}), '"token" is no list'),
        (pickle.dumps({"token": [], "label": []}), '"token" is no list'),
    ):
        with pytest.raises(ValueError, match=reason):
            read_ids(content)


def test_labels_of_zero_are_not_predicted_as_in_the_original():
    content = pickle.dumps({"token": [0, 5, 7, 0], "label": [0, 0, 7, 0]})
    assert read_ids(content)[1].tolist() == [-100, -100, 7, -100]
