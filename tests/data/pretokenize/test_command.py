"""The command: the original's ids, every kind of image and of bad input, kills, parts, TFDS."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lumina_jax import checkpoint as checkpoints
from lumina_jax.data.pretokenize import command, tokenising
from lumina_jax.data.records import jitted_encoder
from lumina_jax.data.shards import read_lengths
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER, conversation_ids
from lumina_jax.unirep.image_tokens import fit_image, image_sentence
from lumina_jax.unirep.tasks import text_to_image
from tests.data.pretokenize.pictures import (
    KINDS,
    bad_lines,
    encoded,
    photograph,
    scene,
)

FEW = ("--batch-size", 8, "--target-px", 64)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers take a second to start; a test of theirs has them."""
    monkeypatch.setattr(
        tokenising,
        "in_order",
        lambda function, arguments, *_: (function(*one) for one in arguments),
    )


def write_lines(file: Path, lines: list[str | bytes]) -> Path:
    encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"\xef\xbb\xbf" + b"\n".join(encoded) + b"\n")
    return file


def captioned(folder: Path, count: int) -> Path:
    """A file of captions of Scenes and photographs, of every kind in turn."""
    folder.mkdir()
    lines = []
    for number in range(count):
        image = photograph("chelsea.png").copy() if number % 3 == 2 else scene(number)
        content, suffix = encoded(image, KINDS[number % len(KINDS)])
        name = f"{number}{suffix}"
        (folder / name).write_bytes(content)
        lines.append(json.dumps({"image": name, "caption": f"a red thing {number}", "id": number}))
    return write_lines(folder / "captions.jsonl", lines)


def one_by_one(file: Path, lumina: Any, encode: Any, caption: str) -> tuple[np.ndarray, np.ndarray]:
    """(ids, labels) of one picture, encoded alone."""
    config, tokenizer = lumina.config, lumina.tokenizer
    image = ImageOps.exif_transpose(Image.open(file))
    assert image is not None
    pixels = fit_image(image, 64, config.grid)
    sentence = image_sentence(encode(pixels[None])[0], tokenizer.vocab, config.grid)
    prompt = text_to_image(pixels.shape[1], pixels.shape[0], caption)
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": IMAGE_PLACEHOLDER}]
    record = {"conversations": turns, "image": [0]}
    return conversation_ids(record, tokenizer, lambda _: sentence)


def test_the_ids_and_labels_are_the_original_s(golden, golden_checkpoint, pretokenize):
    source = golden.path / "conversation.json"
    options = ("--checkpoint", golden_checkpoint, "--target-px", 96, "--batch-size", 8)
    found = pretokenize(
        write_lines(golden_checkpoint.parent / "one" / "c.json", [f"[{source.read_text()}]"]),
        *options,
        "--root",
        golden.path,
    )
    assert found.code == 0, found.err
    (record,) = found.records
    np.testing.assert_array_equal(record.tokens, golden["conv_ids"])
    np.testing.assert_array_equal(record.labels(), golden["conv_labels"])
    assert (record.task, record.size, record.source) == ("depth", (96, 96), "c")


def test_every_kind_of_image_is_as_encoded_alone_and_bad_inputs_are_named(
    tmp_path, pretokenize, small_lumina
):
    source = captioned(tmp_path / "src", len(KINDS))
    lines: list[str | bytes] = [*source.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()]
    wrong = list(bad_lines(source.parent))
    assert len(wrong) >= 30
    for number, (line, _) in enumerate(wrong):
        lines.insert(2 * number, line)
    write_lines(source, lines)
    limits = ("--max-pixels", 1_000_000, "--max-tokens", 500, "--without-size", 0)
    found = pretokenize(source, *FEW, *limits, "--examples-per-shard", 16)
    assert found.code == 2
    assert (
        f"{len(KINDS)} records" in found.err and f"{len(wrong)} bad inputs, at most 0" in found.err
    )
    encode = partial(
        one_by_one,
        lumina=small_lumina,
        encode=jitted_encoder(small_lumina.config, small_lumina.vqgan_params),
    )
    for number, record in enumerate(found.records):
        (file,) = source.parent.glob(f"{number}.*")
        ids, labels = encode(file, caption=f"a red thing {number}")
        np.testing.assert_array_equal(record.tokens, ids)
        np.testing.assert_array_equal(record.labels(), labels)
        assert (record.id, record.task) == (str(number), "text_to_image")
    named = {bad["line"]: bad for bad in map(json.loads, found.bad.splitlines())}
    assert len(named) == len(wrong)
    for line, reason in wrong:
        place = 1 + lines.index(line)
        assert re.search(reason, named[place]["reason"]), (named[place], reason)
        assert named[place]["file"] == str(source) and f"{source}:{place}: " in found.err
    assert (
        pretokenize(source, *FEW, *limits, "--examples-per-shard", 16, "--max-bad", len(wrong)).code
        == 0
    )


def shards_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.array_record"))}


def test_what_was_stopped_goes_on_and_parts_are_the_whole(tmp_path, pretokenize, monkeypatch):
    source = captioned(tmp_path / "src", 7)
    options = (*FEW, "--examples-per-shard", 2)
    whole = pretokenize(source, *options, dst="whole")
    assert whole.code == 0 and len(shards_of(whole.folder)) == 4
    real, written = tokenising.keep_shard, []

    def keep(*arguments: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(arguments[1])
        real(*arguments)

    monkeypatch.setattr(tokenising, "keep_shard", keep)
    stopped = pretokenize(source, *options)
    assert stopped.code == 130 and len(shards_of(stopped.folder)) == 1
    monkeypatch.setattr(tokenising, "keep_shard", real)
    assert pretokenize(source, *options).code == 0
    assert shards_of(stopped.folder) == shards_of(whole.folder)
    first = pretokenize(source, *options, "--part", "1/2", dst="parts")
    assert first.code == 0 and "2 shards of others are missing" in first.out
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "6")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert pretokenize(source, *options, dst="parts").code == 0
    for name in ("index.json", "lengths.npy", "dataset_info.json"):
        assert (first.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert shards_of(first.folder) == shards_of(whole.folder)


def test_tfds_reads_the_folder(tmp_path, pretokenize):
    import tensorflow_datasets as tfds

    found = pretokenize(captioned(tmp_path / "src", 5), *FEW, "--examples-per-shard", 2)
    source = tfds.builder_from_directory(str(found.folder)).as_data_source("train")
    records = found.records
    assert len(source) == len(records) == 5
    for stored, record in zip(source, records, strict=True):
        np.testing.assert_array_equal(stored["tokens"], record.tokens)
        assert stored["tokens"].dtype == np.uint16
        assert stored["spans"].tolist() == [list(span) for span in record.spans]
        assert (stored["width"], stored["height"]) == record.size
        assert stored["task"].decode() == record.task
    assert read_lengths(found.folder).tolist() == [len(record.tokens) for record in records]
    notes = json.loads((found.folder / "index.json").read_text())
    metadata = json.loads((found.folder / "metadata.json").read_text())
    assert notes["tokenizer"] == metadata["tokenizer"] != ""


def test_every_size_gives_a_record_and_crops_may_be_random(tmp_path, pretokenize):
    source = captioned(tmp_path / "src", 4)
    sizes = ("--batch-size", 8, "--target-px", 64, 96)
    found = pretokenize(source, *sizes).records
    assert [record.index for record in found] == [0, 0, 1, 1, 2, 2, 3, 3]
    areas = [record.size[0] * record.size[1] for record in found]
    assert all(area <= 64**2 for area in areas[::2]) and all(
        64**2 < a <= 96**2 for a in areas[1::2]
    )
    cut = [
        [
            record.tokens.tolist()
            for record in pretokenize(
                source, *sizes, "--random-crop", "--seed", seed, dst=name
            ).records
        ]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert cut[0] == cut[1] != cut[2]


def test_a_share_of_prompts_says_no_size(tmp_path, pretokenize):
    lines = [
        json.dumps({"image": "x.png", "caption": ["a dome", "a ring"], "id": i}) for i in range(40)
    ]
    source = write_lines(tmp_path / "src" / "c.jsonl", list(lines))
    scene(0).save(source.parent / "x.png")
    found = pretokenize(source, *FEW, "--without-size", 0.5).records
    tasks = [record.task for record in found]
    assert 8 < tasks.count("text_to_image_any_size") < 32 and set(tasks) == {
        "text_to_image",
        "text_to_image_any_size",
    }
    assert len({record.tokens.tobytes() for record in found}) == 4  # with two captions


def test_other_settings_and_folders_are_refused_in_one_line(tmp_path, pretokenize, monkeypatch):
    source = captioned(tmp_path / "src", 2)
    assert pretokenize(source, *FEW).code == 0
    for options, message in (
        (
            ("--target-px", 80, "--batch-size", 8),
            r"was begun with target_px \[64\], now it is \[80\]",
        ),
        ((*FEW, "--part", "3/2"), "part 3 of 2: want one from 1 to 2"),
        ((*FEW, "--part", "x"), "--part x: want I/N"),
        ((*FEW, "--without-size", 2), "want a share from 0 to 1"),
        ((*FEW, "--kind", "hdf5"), "unknown kind of source 'hdf5'|kind of source"),
        ((*FEW, "--caption-field", "id"), "was begun with caption_field , now it is id"),
        ((*FEW, "--root", "/"), "was begun with root , now it is /"),
        ((*FEW, "--follow-links"), "was begun with follow_links False, now it is True"),
        (("--target-px", 64, "--batch-size", 17), "was begun with batch_size 8, now it is 24"),
        (("--target-px", 65), "target size 65 px: want a positive multiple of 16"),
    ):
        found = pretokenize(source, *options)
        assert found.code == 2 and re.search(message, found.err.splitlines()[-1]), found.err
    with monkeypatch.context() as later:
        later.setattr(command, "WRITTEN_BY", ("data/pretokenize/*.py",))
        assert "was begun with code" in pretokenize(source, *FEW).err
    model = checkpoints.load_model("scenes", parts=("vqgan",))
    config = replace(model.config, image_layout="chameleon")
    with monkeypatch.context() as other:
        other.setattr(checkpoints, "load_model", lambda *_, **__: model._replace(config=config))
        refused = pretokenize(source, *FEW, "--random-crop")
    assert refused.code == 2 and "--random-crop: images of" in refused.err
    (source.parent / "0.jpg").unlink()
    source.write_bytes(source.read_bytes() + b'{"conversations": []}\n')
    assert "was begun with source" in pretokenize(source, *FEW).err
    found = pretokenize(source, *FEW, dst="src")
    assert "and no settings.json; choose an empty folder" in found.err
    assert "no such file or folder" in pretokenize(tmp_path / "absent.jsonl").err
    gone = pretokenize(source, *FEW, "--checkpoint", tmp_path / "none")
    assert "no checkpoint there" in gone.err


def test_a_part_s_bad_inputs_are_in_its_shards(tmp_path, pretokenize):
    source = captioned(tmp_path / "src", 3)
    (source.parent / "0.jpg").unlink()
    part = (*FEW, "--examples-per-shard", 2, "--part", "1/2")
    found = pretokenize(source, *part)
    named = found.folder / "*-of-00002.json"
    assert found.code == 2 and f"1 bad inputs, at most 0 are allowed (--max-bad), see {named}" in (
        found.err
    )
    assert any("no such file" in file.read_text() for file in found.folder.glob(named.name))
