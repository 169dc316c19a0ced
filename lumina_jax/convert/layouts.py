"""Tells what a folder of weights is, and opens it: Meta's, Lumina-mGPT's, transformers', Anole's, or one of ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lumina_jax.checkpoint import ASSETS, is_checkpoint
from lumina_jax.config import IMAGE_LAYOUTS, GridConfig, ModelConfig, TransformerConfig
from lumina_jax.config_json import config_from_dict
from lumina_jax.convert.companions import find_tokenizer, find_vqgan, read_notes
from lumina_jax.convert.configs import read_hf_config, read_json, read_meta_config
from lumina_jax.convert.stored_tensor import StoredTensor
from lumina_jax.convert.tables import VQMODEL
from lumina_jax.convert.tensor_files import open_folder, open_tensors
from lumina_jax.convert.transformer import check_replicas, read_leaves, with_norm_groups
from lumina_jax.convert.weights import Leaf, Weights, open_checkpoint, stamp_of
from lumina_jax.dims import pick
from lumina_jax.model.presets import PRESETS
from lumina_jax.paths import absolute, as_path
from lumina_jax.unirep.grid import crop_sizes, image_token_count

Rotary = Literal["auto", "pairs", "halves"]
HF_INDEX = "pytorch_model.bin.index.json"
META_FILES = "consolidated*.pth"
TEXT_ROOM = 512  # tokens left beside the longest image, where a release says less


@dataclass(frozen=True)
class SourceOptions:
    """What a folder of weights does not say, or says wrongly; None or "auto": as it says."""

    tokenizer: str | None = None  # text_tokenizer.json; default: beside the weights
    vqgan: str | None = None  # vqgan.ckpt, its vqgan.yaml beside it; default: beside the weights
    preset: str | None = None  # refuse weights of any other size than this row of PRESETS
    # how query and key rows lie: adjacent rotary pairs (Meta, Anole) or halves (Lumina-mGPT, transformers)
    rotary: Rotary = "auto"
    image_layout: str | None = None  # uni_rep or chameleon; default: uni_rep for Lumina-mGPT only
    target_px: int | None = None  # side of the trained square; default: from the name, or 512
    max_tokens: int | None = None  # longest trained sequence; default: as the config says
    compute_dtype: str | None = None  # of the activations; default: that of the weights


class Found(NamedTuple):
    """The transformer of a folder, its layout known."""

    layout: str
    transformer: TransformerConfig
    leaves: dict[str, Leaf]
    vqmodel: dict[str, StoredTensor]  # the VQGAN's tensors in transformers' files
    max_tokens: int
    lines: tuple[str, ...]  # findings


def open_weights(path: str | Path, options: SourceOptions | None = None) -> Weights:
    """Open a folder of weights of any layout; only headers and small vectors are read.

    Raises FileNotFoundError or ValueError of one line that names the file, the key, and what to do.
    """
    options = options or SourceOptions()
    folder = as_path(path)
    shipped = len(folder.parts) == 1 and (ASSETS / folder).is_dir() and not folder.exists()
    if shipped or is_checkpoint(folder):
        return open_checkpoint(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; give the folder that holds the weights")
    folder = _model_folder(folder)
    opened = _open_meta(folder, options) if _is_meta(folder) else _open_hf(folder, options)
    tokenizer = find_tokenizer(folder, options.tokenizer)
    vqgan, vqgan_leaves, vqgan_line = find_vqgan(folder, options.vqgan, opened.vqmodel)
    notes = read_notes(folder)
    config = _model_config(folder, opened, vqgan, options, notes)
    _check(config, tokenizer.vocab, options.preset, folder)
    leaves = {f"transformer/{name}": leaf for name, leaf in opened.leaves.items()}
    leaves |= {f"vqgan/{name}": leaf for name, leaf in vqgan_leaves.items()}
    lines = (*opened.lines, f"tokenizer: {tokenizer.path}", vqgan_line)
    stamp = stamp_of([folder, *([as_path(options.vqgan)] if options.vqgan else [])])
    return Weights(opened.layout, config, leaves, tokenizer, notes.get("extra", {}), lines, stamp)


def preset_name(config: TransformerConfig) -> str:
    """The row of PRESETS whose sizes these are, or "of its own"."""
    for name, preset in PRESETS.items():
        if _sizes(preset.transformer) == _sizes(config):
            return name
    return "of its own"


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
    if len(paths) != config.qk_norm_shards:
        raise ValueError(
            f"{folder} has {len(paths)} {META_FILES} files, its parameters say {config.qk_norm_shards}: "
            "fetch the missing ones"
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
        names = sorted(set(read_json(folder / HF_INDEX).get("weight_map", {}).values()))
    stored: dict[str, StoredTensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: fetch all files of the folder")
        stored |= open_tensors(folder / name)
    return stored


def _model_config(
    folder: Path, opened: Found, vqgan: Any, options: SourceOptions, notes: Mapping[str, Any]
) -> ModelConfig:
    """The config of the checkpoint: options first, then our own notes, then what the release says."""
    noted = config_from_dict(ModelConfig, notes["model"]) if "model" in notes else None
    transformer = opened.transformer
    dtype = next(iter(opened.leaves.values())).dtype.name
    transformer = replace(
        transformer, param_dtype=dtype, compute_dtype=options.compute_dtype or dtype
    )
    grid = GridConfig(patch_px=vqgan.patch_px, unit_px=2 * vqgan.patch_px)
    if noted is not None:
        transformer = replace(transformer, dropout=noted.transformer.dropout)
        grid = noted.grid
    layout = options.image_layout or (noted.image_layout if noted else None)
    layout = layout or ("uni_rep" if opened.layout == "lumina" else "chameleon")
    target_px = options.target_px or (noted.target_px if noted else None) or _named_px(folder)
    if layout == "uni_rep":
        longest = max(image_token_count(*size, grid) for size in crop_sizes(target_px, grid))
    else:
        longest = image_token_count(target_px, target_px, grid, layout)
    max_tokens = noted.max_tokens if noted else max(opened.max_tokens, 4096, longest + TEXT_ROOM)
    return ModelConfig(
        transformer,
        vqgan,
        grid,
        pick({name: name for name in IMAGE_LAYOUTS}, layout, "image layout"),  # type: ignore[arg-type]
        options.max_tokens or max_tokens,
        target_px,
    )


def _named_px(folder: Path) -> int:
    """The trained square's side out of a name such as Lumina-mGPT-7B-768-Omni; 512, Chameleon's, where there is none.

    >>> _named_px(Path("Lumina-mGPT-7B-1024")), _named_px(Path("models/7b"))
    (1024, 512)
    """
    found = re.search(r"[-_](512|768|1024)(?!\d)", absolute(folder).name)
    return int(found[1]) if found else 512


def _check(config: ModelConfig, vocab: Any, preset: str | None, folder: Path) -> None:
    """ValueError where the parts do not belong together, or are not of the asked size."""
    if preset is not None:
        wanted, got = (
            _sizes(pick(PRESETS, preset, "preset").transformer),
            _sizes(config.transformer),
        )
        odd = [name for name in wanted if wanted[name] != got[name]]
        if odd:
            raise ValueError(
                f"{folder}: {odd[0]} is {got[odd[0]]}, preset {preset} has {wanted[odd[0]]}: not the weights asked for"
            )
    if vocab.num_codes != config.vqgan.num_codes or vocab.size > config.transformer.vocab_size:
        raise ValueError(
            f"{folder}: {config.transformer.vocab_size} ids, a tokenizer of {vocab.size} ids with {vocab.num_codes} "
            f"image codes, a VQGAN of {config.vqgan.num_codes}: these do not belong together"
        )


def _sizes(config: TransformerConfig) -> dict[str, Any]:
    names = (
        "num_layers",
        "width",
        "num_heads",
        "num_kv_heads",
        "head_size",
        "mlp_width",
        "vocab_size",
    )
    return {name: getattr(config, name) for name in (*names, "norm_placement", "qk_norm_shards")}
