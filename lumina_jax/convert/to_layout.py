"""Weights into the layouts of PyTorch's tools, Meta's, Lumina-mGPT's, transformers': the inverse of `layouts`."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lumina_jax.config_json import config_to_dict
from lumina_jax.convert import hf_tokenizer, transformer, vqgan
from lumina_jax.convert.companions import NOTES_NAME, VQGAN_NAME
from lumina_jax.convert.configs import write_hf_config, write_meta_config, write_vqgan_yaml
from lumina_jax.convert.tables import VQMODEL
from lumina_jax.convert.transformer import Entry
from lumina_jax.convert.weights import Weights
from lumina_jax.convert.write_tensors import write_folder, write_pth
from lumina_jax.dims import pick
from lumina_jax.model_writer import unfinished_folder
from lumina_jax.paths import absolute, check_writable, copy_folder, is_remote
from lumina_jax.unirep.text import ReleasedTokenizer

MARK = "unfinished_export"  # a file in a folder that we are writing and may remove
TARGETS: Mapping[str, str] = {
    "meta": "Meta's code, and ours",
    "lumina": "Lumina-mGPT's code, and ours",
    "transformers": "transformers and what reads its files, and ours",
}


def write_layout(weights: Weights, path: str | Path, target: str) -> tuple[Path, list[str]]:
    """Write `weights` to the folder `path` in a layout of TARGETS. Returns it, and what the layout could not hold.

    Everything lies in `path`.unfinished until it is complete. Raises ValueError where `path` exists, and for a model
    that the layout cannot hold: a sentencepiece tokenizer, or a VQGAN that is not of Chameleon's architecture.
    """
    pick(TARGETS, target, "target")
    path = absolute(path)
    if is_remote(path):
        check_writable(path)
    if (path / NOTES_NAME if is_remote(path) else path).exists():
        raise ValueError(f"{path} exists: name another destination, or remove it first")
    tokenizer = weights.tokenizer
    if not isinstance(tokenizer, ReleasedTokenizer):
        raise ValueError(
            f"a {type(tokenizer).__name__}: released layouts hold a tokenizer of the tokenizers library only "
            "(text_tokenizer.json)"
        )
    for part in ("transformer", "vqgan"):
        if not weights.part(part):
            raise ValueError(f"the source has no {part}: released layouts hold both parts")
    entries = vqgan.stored_entries(weights.config.vqgan, weights.part("vqgan"))
    folder = unfinished_folder(path)
    if folder.exists() and not (folder / MARK).exists():
        raise ValueError(
            f"{folder} is there and is no unfinished export: remove it, or name another destination"
        )
    shutil.rmtree(folder, ignore_errors=True)
    try:
        left_out = _write(weights, tokenizer, folder, target, entries)
        (folder / MARK).unlink()
        if is_remote(path):
            copy_folder(folder, path, last=NOTES_NAME)
            shutil.rmtree(folder)
        else:
            os.replace(folder, path)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        there = "; what was copied before lacks its " + NOTES_NAME if is_remote(path) else ""
        raise ValueError(f"{path}: writing failed ({error.strerror or error}){there}") from error
    except ValueError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return path, left_out


def _write(
    weights: Weights,
    tokenizer: ReleasedTokenizer,
    folder: Path,
    target: str,
    vq_entries: Mapping[str, Entry],
) -> list[str]:
    """Write everything into `folder`. Returns what the layout could not hold."""
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    with tqdm(total=weights.nbytes, unit="B", unit_scale=True, desc=f"writing {target}") as bar:
        writer = _Writer(weights, tokenizer, folder, bar)
        left_out = writer.meta(vq_entries) if target == "meta" else writer.hf(target, vq_entries)
    notes = {"model": config_to_dict(weights.config), "extra": dict(weights.notes)}
    _write_json(folder / NOTES_NAME, notes)
    if target == "transformers" and weights.config.image_layout != "chameleon":
        left_out.append(
            "the image layout: transformers' processor writes 1,024 codes an image, without size and line-end tokens; "
            "only our own notes say what this model wants"
        )
    return left_out


class _Writer:
    """Writes one model into one folder."""

    def __init__(self, weights: Weights, tokenizer: ReleasedTokenizer, folder: Path, bar: Any):
        self.weights, self.tokenizer, self.folder, self.bar = weights, tokenizer, folder, bar

    def meta(self, vq_entries: Mapping[str, Entry]) -> list[str]:
        """params.json, consolidated.pth or one file a shard, tokenizer/. Returns what was left out."""
        config, leaves = self.weights.config.transformer, self.weights.part("transformer")
        for name, content in write_meta_config(config).items():
            _write_json(self.folder / name, content)
        count = config.qk_norm_shards
        for shard in range(count):
            name = "consolidated.pth" if count == 1 else f"consolidated.{shard:02d}.pth"
            entries = transformer.stored_entries("meta", config, leaves, shard)
            write_pth(self.folder / name, *self._reading(entries))
        return self._tokenizer_folder(vq_entries)

    def hf(self, target: str, vq_entries: Mapping[str, Entry]) -> list[str]:
        """config.json, *.safetensors, and what goes with them. Returns what was left out."""
        config, names = self.weights.config, self.tokenizer.names
        names = hf_tokenizer.with_image_name(names)
        entries = transformer.stored_entries(
            target, config.transformer, self.weights.part("transformer")
        )
        left_out = []
        if target == "transformers":
            kept = {key: e for key, e in vq_entries.items() if not key.startswith("decoder.")}
            entries |= {VQMODEL + key: entry for key, entry in kept.items()}
            lost = len(vq_entries) - len(kept)
            if lost:
                left_out.append(
                    f"the VQGAN's decoder ({lost} tensors): transformers has none, so it reads images and paints none; "
                    "keep vqgan.ckpt"
                )
            hf_tokenizer.write(self.folder, self.tokenizer)
        else:
            left_out = self._tokenizer_folder(vq_entries)
        write_folder(self.folder, *self._reading(entries))
        content = write_hf_config(
            target, config.transformer, config.vqgan, config.max_tokens, names
        )
        _write_json(self.folder / "config.json", content)
        ids = {name: content[name] for name in ("bos_token_id", "pad_token_id")}
        separator = self.tokenizer.vocab.sep_id
        _write_json(self.folder / "generation_config.json", {**ids, "eos_token_id": separator})
        return left_out

    def _tokenizer_folder(self, vq_entries: Mapping[str, Entry]) -> list[str]:
        """tokenizer/ as Meta's release has it: text_tokenizer.json, vqgan.ckpt, vqgan.yaml."""
        place = self.folder / "tokenizer"
        place.mkdir()
        self.tokenizer.save(place)
        config = self.weights.config.vqgan
        if not config.has_decoder:
            return [
                "vqgan.ckpt: the source has the VQGAN's encoder only, and Meta's file holds both"
            ]
        write_pth(place / VQGAN_NAME, *self._reading(vq_entries), under="state_dict")
        (place / "vqgan.yaml").write_text(write_vqgan_yaml(config))
        return []

    def _reading(self, entries: Mapping[str, Entry]) -> tuple[dict, Any]:
        """What the writers of files want: shapes and dtypes by key, and a function that reads one."""

        def read(key: str) -> np.ndarray:
            array = entries[key].read()
            self.bar.update(array.nbytes)
            return array

        return {key: (entry.shape, entry.dtype) for key, entry in entries.items()}, read


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
