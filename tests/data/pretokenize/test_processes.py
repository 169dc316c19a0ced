"""The command as processes of its own: killed, as a cluster, into a bucket, and at full scale."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

from lumina_jax.checkpoint import load_model
from lumina_jax.data.pretokenize import tokenising
from lumina_jax.data.records import unpack_record
from lumina_jax.data.shards import open_shards
from lumina_jax.unirep.image_tokens import find_images, fit_image, parse_image
from lumina_jax.vqgan.codec import encodings, from_pixels
from tests.data.pretokenize.pictures import (
    KINDS,
    PHOTOGRAPHS,
    bad_lines,
    encoded,
    photograph,
    scene,
)

ROOT = Path(__file__).parents[3]
MODULE = "lumina_jax.data.pretokenize"


def start(*arguments: object, code: str = "") -> subprocess.Popen:
    """The command in a process of its own; or `code` with its arguments."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = ["-c", code] if code else ["-m", MODULE]
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen) -> int:
    """Its exit code; what it says is read all the while."""
    process.err = process.communicate(timeout=900)[1]  # pyright: ignore[reportAttributeAccessIssue]
    return process.returncode


def write_corpus(folder: Path, num_scenes: int, num_photographs: int) -> Path:
    """captions.jsonl of Scenes as PNG and of photographs of every kind, cut at other places each."""
    folder.mkdir()
    lines = []
    for number in range(num_scenes + num_photographs):
        if number < num_scenes:
            sizes = ((128, 128), (160, 96), (96, 160))
            content, suffix = encoded(scene(number, sizes[number % 3]), "png")
        else:
            image = photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
            left, upper = number % 37, number % 23
            image = image.crop((left, upper, image.width, image.height))
            content, suffix = encoded(image, KINDS[number // len(PHOTOGRAPHS) % len(KINDS)])
        name = f"{number}{suffix}"
        (folder / name).write_bytes(content)
        lines.append(json.dumps({"image": name, "caption": f"thing {number}", "id": name}))
    file = folder / "captions.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a folder of records."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, checkpoint):
    source = write_corpus(tmp_path / "src", 60, 0)
    options = ("--checkpoint", checkpoint, "--examples-per-shard", 4, "--workers", 2)
    whole, dst = tmp_path / "whole", tmp_path / "dst"
    assert finished(start(source, whole, *options)) == 0
    for wanted in (2, 7):
        process = start(source, dst, *options)
        while process.poll() is None and len(list(dst.glob("*.array_record"))) < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert finished(process) == -signal.SIGKILL
        assert not (dst / "index.json").exists()
    process = start(source, dst, *options)
    while process.poll() is None and len(list(dst.glob("*.array_record"))) < 11:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert finished(process) in (0, 130)
    assert finished(start(source, dst, *options)) == 0
    assert files_of(dst) == files_of(whole)


CLUSTER = f"""
import sys, jax
address, index, *arguments = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
from {MODULE}.__main__ import main
main(arguments)
"""


def start_cluster(arguments: list[tuple]) -> list[subprocess.Popen]:
    """The command as the two processes of a cluster."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(address, index, *more, "--distributed", code=CLUSTER)
        for index, more in enumerate(arguments)
    ]


@pytest.mark.multihost
def test_a_cluster_without_a_shared_disk_ends_at_once(tmp_path, checkpoint):
    source = write_corpus(tmp_path / "src", 8, 0)
    options = ("--checkpoint", checkpoint, "--examples-per-shard", 4, "--workers", 1)
    disks = [(source, tmp_path / f"disk{index}" / "dst", *options) for index in range(2)]
    for process in start_cluster(disks):
        assert finished(process) == 1
        assert "process 1 does not see there what process 0 wrote" in process.err  # pyright: ignore[reportAttributeAccessIssue]
    assert not list(tmp_path.glob("disk*/dst/*"))


@pytest.mark.multihost
def test_a_cluster_writes_what_one_process_does(tmp_path, checkpoint):
    source = write_corpus(tmp_path / "src", 40, 0)
    options = ("--checkpoint", checkpoint, "--examples-per-shard", 4, "--workers", 1)
    assert finished(start(source, tmp_path / "whole", *options)) == 0
    processes = start_cluster([(source, tmp_path / "dst", *options)] * 2)
    assert [finished(process) for process in processes] == [0, 0]
    assert files_of(tmp_path / "dst") == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_bucket_gets_the_folder_when_it_is_complete(tmp_path, pretokenize, fake_gcs, monkeypatch):
    source, dst = write_corpus(tmp_path / "src", 5, 0), f"{fake_gcs.url}/records/scenes"
    monkeypatch.setattr(
        tokenising,
        "in_order",
        lambda function, arguments, *_: (function(*one) for one in arguments),
    )
    options = ("--examples-per-shard", 2, "--batch-size", 8)
    local = pretokenize(source, *options)
    found = pretokenize(source, *options, dst=dst)
    assert (local.code, found.code) == (0, 0), found.err
    records = [unpack_record(packed) for packed in open_shards(dst)]
    assert [record.id for record in records] == [f"{number}.png" for number in range(5)]
    assert list(open_shards(dst)) == list(open_shards(local.folder))
    assert "several processes want" in pretokenize(source, *options, "--part", "1/2", dst=dst).err


@pytest.mark.slow
def test_two_thousand_scenes_and_two_hundred_photographs(tmp_path):
    source = write_corpus(tmp_path / "src", 2000, 200)
    lines: list[str | bytes] = [*source.read_bytes().splitlines()]
    wrong = list(bad_lines(source.parent))[:30]
    for number, (line, _) in enumerate(wrong):
        lines.insert(70 * number, line)
    source.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    limits = ("--max-pixels", 1_000_000, "--max-bad", 29)
    process = start(source, tmp_path / "dst", *limits, "--examples-per-shard", 500)
    assert finished(process) == 2
    assert "2200 records" in process.err and "30 bad inputs, at most 29" in process.err  # pyright: ignore[reportAttributeAccessIssue]
    bad = [json.loads(line) for line in (tmp_path / "dst" / "bad.jsonl").read_text().splitlines()]
    for one, (line, reason) in zip(bad, wrong, strict=True):
        assert one["line"] == 1 + lines.index(line) and re.search(reason, one["reason"]), one
    model = load_model("scenes", parts=("vqgan",))
    grid, vocab = model.config.grid, model.tokenizer.vocab

    params, embedding = (
        model.params["vqgan"],
        np.asarray(model.params["vqgan"]["quantize"]["embedding"]),
    )
    vectors = jax.jit(lambda pixels: encodings(params, model.config.vqgan, from_pixels(pixels)))
    records = [unpack_record(packed) for packed in open_shards(tmp_path / "dst")]
    assert len({record.id for record in records}) == len(records) == 2200
    num_others = 0
    for record in records:
        image = ImageOps.exif_transpose(Image.open(source.parent / record.id))
        assert image is not None
        pixels = fit_image(image, model.config.target_px, grid)[None]
        assert record.size == pixels.shape[2:0:-1]
        ((start_at, stop),) = find_images(record.tokens, vocab)
        codes = parse_image(record.tokens[start_at:stop].astype(np.int32), vocab, grid)
        # encoded alone; a code that differs is a tie but for the rounding of |z|² + |e|² - 2ze
        alone = np.asarray(vectors(pixels))[0].reshape(-1, 1, embedding.shape[1])
        distances = np.square(alone - embedding).sum(-1)
        chosen = np.take_along_axis(distances, codes.reshape(-1, 1), 1)[:, 0]
        terms = np.square(alone[:, 0]).sum(-1) + np.square(embedding[codes.ravel()]).sum(-1)
        assert ((chosen - distances.min(1)) / terms).max() < 1e-5
        num_others += (distances.argmin(1) != codes.ravel()).sum()
    assert num_others <= 13  # of 134,469: another batch is summed in another order
