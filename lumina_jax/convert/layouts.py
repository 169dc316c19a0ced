"""Tells what a folder of weights is, and opens it: Meta's, Lumina-mGPT's, transformers', Anole's, or one of ours."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.checkpoint import ASSETS, is_checkpoint
from lumina_jax.config import (
    TransformerConfig,
    VQGANConfig,
)
from lumina_jax.convert.companions import (
    FoundVQGAN,
    companion_files,
    find_tokenizer,
    find_vqgan,
    read_notes,
    weight_files,
)
from lumina_jax.convert.configs import read_hf_config, read_json, read_meta_config
from lumina_jax.convert.model_config import SourceOptions, check, model_config, with_options
from lumina_jax.convert.stored_tensor import StoredTensor
from lumina_jax.convert.tables import VQMODEL
from lumina_jax.convert.tensor_files import open_folder, open_tensors
from lumina_jax.convert.transformer import check_replicas, read_leaves, with_norm_groups
from lumina_jax.convert.weights import Leaf, Weights, open_checkpoint, stamp_of
from lumina_jax.paths import absolute, as_path

HF_INDEX = "pytorch_model.bin.index.json"
META_FILES = "consolidated*.pth"


class Found(NamedTuple):
    """The transformer of a folder, its layout known."""

    layout: str
    transformer: TransformerConfig
    leaves: dict[str, Leaf]
    vqmodel: dict[str, StoredTensor]  # the VQGAN's tensors in transformers' files
    max_tokens: int
    lines: tuple[str, ...]  # findings


def open_weights(
    path: str | Path, options: SourceOptions | None = None, alone: bool = False
) -> Weights:
    """Open a folder of weights of any layout; only headers and small vectors are read.

    `alone`: do without a tokenizer and a VQGAN where none is found. Raises FileNotFoundError or ValueError of one
    line that names the file, the key, and what to do.
    """
    options = options or SourceOptions()
    folder = as_path(path)
    shipped = len(folder.parts) == 1 and (ASSETS / folder).is_dir() and not folder.exists()
    if not shipped and not folder.is_dir() and not _left_by_a_kill(folder):
        raise FileNotFoundError(f"{path}: no such folder; give the folder that holds the weights")
    if shipped or is_checkpoint(folder) or _left_by_a_kill(folder) or _has_params(folder):
        return with_options(open_checkpoint(folder), options, folder)
    folder = _model_folder(absolute(folder))
    opened = _open_meta(folder, options) if _is_meta(folder) else _open_hf(folder, options)
    tokenizer = _unless_absent(lambda: find_tokenizer(folder, options.tokenizer), alone)
    found = _unless_absent(lambda: find_vqgan(folder, options.vqgan, opened.vqmodel), alone)
    vqgan = found or FoundVQGAN(VQGANConfig(), {}, None, "none found")
    notes = read_notes(folder)
    config = model_config(folder, opened, vqgan.config, options, notes)
    check(config, tokenizer and tokenizer.vocab, options.preset, folder)
    leaves = {f"transformer/{name}": leaf for name, leaf in opened.leaves.items()}
    leaves |= {f"vqgan/{name}": leaf for name, leaf in vqgan.leaves.items()}
    where = tokenizer.path if tokenizer else "none found"
    lines = (*opened.lines, f"tokenizer: {where}", f"VQGAN: {vqgan.line}")
    files = [*weight_files(folder), *companion_files(tokenizer, vqgan.path)]
    extra = notes.get("extra", {})
    return Weights(opened.layout, config, leaves, tokenizer, extra, lines, stamp_of(files))


def _unless_absent(find: Callable[[], Any], alone: bool) -> Any:
    """What `find` finds; None where that is not there and may be absent."""
    try:
        return find()
    except FileNotFoundError:
        if alone:
            return None
        raise


def _left_by_a_kill(folder: Path) -> bool:
    """Whether a save died while it put a checkpoint in the place of another, which lies beside it then."""
    return not folder.exists() and folder.with_name(folder.name + ".previous").is_dir()


def _has_params(folder: Path) -> bool:
    """Whether a folder holds the arrays of a checkpoint of ours, whatever its config.json says."""
    return (folder / "params" / "orbax.checkpoint").is_file()


def _model_folder(folder: Path) -> Path:
    """The folder itself, or the one model in the release whose root it is."""
    if _is_meta(folder) or (folder / "config.json").is_file():
        return folder
    inside = [place for place in sorted((folder / "models").glob("*")) if _is_meta(place)]
    inside += [place for place in sorted(folder.glob("*")) if _is_meta(place)]
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise ValueError(f"{folder} holds {len(inside)} models: name one, e.g. {inside[0]}")
    raise FileNotFoundError(
        f"{folder}: neither params.json with {META_FILES} (Meta), nor config.json with *.safetensors or *.bin "
        "(Lumina-mGPT, transformers, Anole), nor params/ (a checkpoint of ours)"
    )


def _is_meta(folder: Path) -> bool:
    return (folder / "params.json").is_file()


def _open_meta(folder: Path, options: SourceOptions) -> Found:
    paths = sorted(folder.glob(META_FILES))
    config = read_meta_config(folder, "bfloat16")
    count = config.qk_norm_shards
    wanted = (
        ["consolidated.pth"] if count == 1 else [f"consolidated.{i:02d}.pth" for i in range(count)]
    )
    if [path.name for path in paths] != wanted:
        odd = sorted({path.name for path in paths} ^ set(wanted))
        raise ValueError(
            f"{folder} has {len(paths)} {META_FILES} files, its parameters say {count}: {odd[0]} is missing or too much"
        )
    shards = [open_tensors(path) for path in paths]
    leaves = read_leaves("meta", config, shards, folder, options.rotary != "halves")
    drifted = check_replicas(config, shards)
    lines = [f"Meta's layout, {len(paths)} shard{'s' * (len(paths) > 1)}"]
    if drifted:
        lines.append(
            f"{len(drifted)} vectors that its shards replicate differ by roundings ({drifted[0]}, …): averaged, as "
            "transformers does; the way back gives every shard the average"
        )
    return Found("meta", config, leaves, {}, 0, tuple(lines))


def _open_hf(folder: Path, options: SourceOptions) -> Found:
    stored = _open_hf_files(folder)
    path = folder / "config.json"
    config = read_hf_config(path, "bfloat16")
    vqmodel = {k.removeprefix(VQMODEL): t for k, t in stored.items() if k.startswith(VQMODEL)}
    stored = {key: tensor for key, tensor in stored.items() if not key.startswith(VQMODEL)}
    norm = stored.get("model.layers.0.self_attn.q_norm.weight")
    if norm is None:
        raise ValueError(
            f"{folder}: no model.layers.0.self_attn.q_norm.weight: not a Chameleon's weights"
        )
    layout = _hf_layout(norm.shape, config)
    if layout == "anole":
        config = replace(config, qk_norm_shards=1)
    if layout == "transformers":
        config = with_norm_groups(config, stored, folder)
    pairs = layout == "anole" if options.rotary == "auto" else options.rotary == "pairs"
    leaves = read_leaves(layout, config, [stored], folder, pairs)
    what = {
        "lumina": "Lumina-mGPT's layout",
        "transformers": "transformers' layout",
        "anole": "Anole's layout",
    }
    lines = (f"{what[layout]}, q/k norm {norm.shape}, rotary {'pairs' if pairs else 'halves'}",)
    vqmodel = vqmodel if layout == "transformers" else {}
    max_tokens = read_json(path).get("max_position_embeddings") or 0
    return Found(layout, config, leaves, vqmodel, max_tokens, lines)


def _hf_layout(norm_shape: tuple[int, ...], config: TransformerConfig) -> str:
    """Which of the layouts with transformers' keys: told by the shape of a query norm.

    >>> from lumina_jax.model.presets import PRESETS
    >>> _hf_layout((1, 128), PRESETS["7b"].transformer), _hf_layout((32, 128), PRESETS["7b"].transformer)
    ('lumina', 'transformers')
    """
    if len(norm_shape) == 1:
        return "anole"
    return "lumina" if norm_shape[0] == config.qk_norm_shards else "transformers"


def _open_hf_files(folder: Path) -> dict[str, StoredTensor]:
    if any(folder.glob("*.safetensors*")):
        return open_folder(folder)
    names = ["pytorch_model.bin"]
    if (folder / HF_INDEX).is_file():
        weight_map = read_json(folder / HF_INDEX).get("weight_map")
        listed = weight_map.values() if isinstance(weight_map, dict) else [weight_map]
        names = sorted({str(name) for name in listed})
        if not weight_map or any(not re.fullmatch(r"[\w.-]+\.bin", name) for name in names):
            raise ValueError(f"{folder / HF_INDEX} lists no files of this folder: fetch it again")
    stored: dict[str, StoredTensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: fetch all files of the folder")
        stored |= open_tensors(folder / name)
    return stored
