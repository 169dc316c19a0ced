"""Conversion of a full-size model: speed and memory, against bare Orbax and cp; killed half-way and resumed.

Writes random weights of PRESET in a released layout under DIR (14 GB for 7b; kept for the next run), converts them, and
prints a table for docs/benchmarks.md:

    python benchmarks/convert.py DIR --layout meta --layout lumina
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lumina_jax.config import ModelConfig
from lumina_jax.convert import transformer, vqgan
from lumina_jax.convert.configs import write_hf_config, write_meta_config, write_vqgan_yaml
from lumina_jax.convert.layouts import open_weights
from lumina_jax.convert.weights import Leaf, named
from lumina_jax.convert.write_tensors import write_folder, write_pth
from lumina_jax.model.params import abstract_params
from lumina_jax.model.presets import PRESETS
from lumina_jax.unirep.vocab import code_name
from lumina_jax.vqgan.codec import abstract_vqgan

BLOCK = 2**24  # random numbers that every array is cut from, at a place of its own
GROUP_BYTES = 256 * 2**20  # what bare Orbax saves at once
GIB = 2**30
BARE = "--bare"  # runs `save_bare` in a process of its own


def random_leaves(abstract, dtype, seed: int) -> dict[str, Leaf]:
    """Numbers like trained weights' (normal, 0.02) in every array."""
    block = (np.random.default_rng(seed).standard_normal(BLOCK, np.float32) * 0.02).astype(dtype)

    def leaf(shape: tuple[int, ...], place: int) -> Leaf:
        size = int(np.prod(shape, dtype=np.int64))

        def read() -> np.ndarray:
            start = place * 7919 % BLOCK
            turned = np.concatenate([block[start:], block[:start]])
            return np.resize(turned, size).reshape(shape)

        return Leaf(shape, np.dtype(dtype), read)

    return {name: leaf(x.shape, i) for i, (name, x) in enumerate(named(abstract))}


def write_release(folder: Path, layout: str, config: ModelConfig) -> None:
    """Random weights of `config` in the layout "meta" or "lumina", with tokenizer/ inside."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    names = write_tokenizer(tokenizer / "text_tokenizer.json", config.transformer.vocab_size)
    vq = vqgan.stored_entries(
        config.vqgan, random_leaves(abstract_vqgan(config.vqgan), np.float32, 1)
    )
    write_pth(tokenizer / "vqgan.ckpt", *reading(vq), under="state_dict")
    (tokenizer / "vqgan.yaml").write_text(write_vqgan_yaml(config.vqgan))
    leaves = random_leaves(abstract_params(config.transformer), ml_dtypes.bfloat16, 0)
    if layout == "lumina":
        entries = transformer.stored_entries("lumina", config.transformer, leaves)
        write_folder(folder, *reading(entries))
        content = write_hf_config("lumina", config.transformer, config.vqgan, 4096, names)
        (folder / "config.json").write_text(json.dumps(content))
        return
    count = config.transformer.qk_norm_shards
    for shard in range(count):
        name = "consolidated.pth" if count == 1 else f"consolidated.{shard:02d}.pth"
        entries = transformer.stored_entries("meta", config.transformer, leaves, shard)
        write_pth(folder / name, *reading(entries))
    for name, content in write_meta_config(config.transformer).items():
        (folder / name).write_text(json.dumps(content))


def reading(entries: Mapping) -> tuple[dict, Any]:
    """What the writers of files want."""
    shapes = {key: (entry.shape, entry.dtype) for key, entry in entries.items()}
    return shapes, lambda key: entries[key].read()


def write_tokenizer(path: Path, size: int) -> dict[str, int]:
    """A tokenizer of `size` names in the order of the released one, without merges."""
    names = ["<s>", "<pad>", "</s>", "<unk>", *(code_name(code) for code in range(8192))]
    names += ["<eoss>", "<racm3:break>", *(f"<sentinel:{i}>" for i in range(512))]
    names += [f"<reserved{i - 4:05d}>" for i in range(len(names), 16388)]
    names += [f"word{i}" for i in range(len(names), size)]
    table = {name: index for index, name in enumerate(names)}
    model = {"type": "BPE", "vocab": table, "merges": [], "unk_token": "<unk>"}
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    return table


def save_bare(source: str, target: str) -> None:
    """The same arrays, as they lie in the source's files, by `ocp.partial.save` alone."""
    from orbax.checkpoint import v1 as ocp

    from lumina_jax.convert.layouts import _open_hf_files
    from lumina_jax.convert.tensor_files import open_tensors

    folder = Path(source)
    paths = sorted(folder.glob("consolidated*.pth"))
    stored = [open_tensors(path) for path in paths] or [_open_hf_files(folder)]
    stored.append(open_tensors(folder / "tokenizer" / "vqgan.ckpt"))
    group: dict[str, np.ndarray] = {}
    for number, tensors in enumerate(stored):
        for key, tensor in tensors.items():
            full = sum(array.nbytes for array in group.values()) + tensor.nbytes > GROUP_BYTES
            if group and full:
                ocp.partial.save(target, group)
                group = {}
            group[f"{number}:{key}"] = tensor.read(verify=False)
    ocp.partial.save(target, group)
    ocp.partial.finalize(target)


class Watched:
    """A process with its peak of anonymous memory, read every 20 ms."""

    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.peak_bytes = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def wait(self) -> None:
        """Return when it has ended; RuntimeError unless with 0."""
        code = self.process.wait()
        self._thread.join()
        if code:
            raise RuntimeError(f"{self.process.args} ended with exit code {code}")

    def _watch(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status")
        while self.process.poll() is None:
            try:
                lines = status.read_text().splitlines()
            except OSError:
                return
            found = [line.split()[1] for line in lines if line.startswith("RssAnon")]
            self.peak_bytes = max(self.peak_bytes, 1024 * int(found[0]) if found else 0)
            time.sleep(0.02)


def timed(what: str, command: list[str], num_bytes: int) -> float:
    """Run a command and print a row of the table; returns its seconds."""
    start = time.perf_counter()
    watched = Watched(command)
    watched.wait()
    seconds = time.perf_counter() - start
    rate = num_bytes / GIB / seconds
    print(
        f"| {what} | {seconds:.1f} s | {rate:.3f} GiB/s | {watched.peak_bytes / GIB:.2f} GiB |",
        flush=True,
    )
    return seconds


def killed_half_way(command: list[str], target: Path, num_bytes: int) -> None:
    """SIGKILL when half of the bytes are on disk, then the same command again."""
    watched = Watched(command)
    unfinished = target.with_name(target.name + ".unfinished")
    while watched.process.poll() is None and size_of(unfinished) < 0.78 * num_bytes / 2:
        time.sleep(0.2)
    watched.process.send_signal(signal.SIGKILL)
    assert watched.process.wait() == -signal.SIGKILL
    print(f"killed with {size_of(unfinished) / GIB:.2f} GiB on disk", flush=True)
    timed("resumed", command, num_bytes)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder that somebody is writing to."""

    def sizes() -> Iterator[int]:
        for root, _, names in os.walk(folder):
            for name in names:
                try:
                    yield os.stat(os.path.join(root, name)).st_size
                except OSError:
                    continue

    return sum(sizes())


def measure(root: Path, layout: str, preset: str) -> None:
    """One layout's rows."""
    source, target, bare = (
        root / f"{preset}-{layout}{end}" for end in ("", "-checkpoint", "-bare")
    )
    if not source.exists():
        print(f"writing {source}", flush=True)
        write_release(source.with_name("writing"), layout, PRESETS[preset])
        os.replace(source.with_name("writing"), source)
    num_bytes = open_weights(source).nbytes
    convert = [sys.executable, "-m", "lumina_jax.convert", str(source), str(target)]
    print(
        f"\n{layout}, {num_bytes / GIB:.2f} GiB\n\n| what | time | rate | peak anonymous memory |\n|---|---|---|---|"
    )
    copy = root / "copy"
    timed("cp", ["cp", "-r", str(source), str(copy)], num_bytes)
    shutil.rmtree(copy)
    slow = timed(
        "bare ocp.partial.save", [sys.executable, __file__, BARE, str(source), str(bare)], num_bytes
    )
    shutil.rmtree(bare)
    fast = timed("convert", convert, num_bytes)
    print(f"\nconvert / bare: {slow / fast:.2f} times the speed", flush=True)
    shutil.rmtree(target)
    killed_half_way(convert, target, num_bytes)
    timed("verify", [*convert[:3], "verify", str(source), str(target)], num_bytes)
    shutil.rmtree(target)


def main() -> None:
    """Read the command line."""
    if sys.argv[1:2] == [BARE]:
        save_bare(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", type=Path, nargs="?", help="folder on a disk with 45 GB free")
    parser.add_argument("--layout", action="append", choices=("meta", "lumina"))
    parser.add_argument("--preset", default="7b", choices=("7b", "34b"))
    options = parser.parse_args()
    if options.root is None:
        print("left out: name a folder with 45 GB free (python benchmarks/convert.py DIR)")
        return
    root = options.root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    for layout in options.layout or ("meta", "lumina"):
        measure(root, layout, options.preset)


if __name__ == "__main__":
    main()
