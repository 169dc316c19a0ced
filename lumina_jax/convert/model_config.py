"""The config of a checkpoint made of a release: what its files say, what they do not say, and what a person says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lumina_jax.config import IMAGE_LAYOUTS, GridConfig, ModelConfig, TransformerConfig
from lumina_jax.config_json import config_from_dict
from lumina_jax.convert.companions import NOTES_NAME
from lumina_jax.convert.weights import Weights
from lumina_jax.dims import pick
from lumina_jax.model.presets import PRESETS
from lumina_jax.unirep.grid import crop_sizes, image_token_count

Rotary = Literal["auto", "pairs", "halves"]
TEXT_ROOM = 512  # tokens left beside the longest images, where a release says less
# What a Uni-Rep conversation may hold, as in Lumina-mGPT 2.0: 16 views of 384x384 px are 9,664 tokens, a picture of
# 768x768 px and its edit 4,720. Rotary positions set no limit, and caches are as long as what is asked needs.
CONVERSATION_TOKENS = 10_240


@dataclass(frozen=True)
class SourceOptions:
    """What a folder of weights does not say, or says wrongly; None or "auto": as it says."""

    tokenizer: str | None = None  # text_tokenizer.json; default: beside the weights
    vqgan: str | None = None  # vqgan.ckpt, its vqgan.yaml beside it; default: beside the weights
    preset: str | None = None  # refuse weights of any other size than this row of PRESETS
    # how query and key rows lie: adjacent rotary pairs (Meta, Anole) or halves (Lumina-mGPT, transformers)
    rotary: Rotary = "auto"
    image_layout: str | None = None  # a row of IMAGE_LAYOUTS; default: uni_rep for Lumina-mGPT only
    target_px: int | None = None  # side of the trained square; default: from the name, or 512
    # longest conversation, images included; default: several images (Uni-Rep), or as the config says if that is more
    max_tokens: int | None = None
    compute_dtype: str | None = None  # of the activations; default: that of the weights


def preset_name(config: TransformerConfig) -> str:
    """The row of PRESETS whose sizes these are, or "of its own"."""
    for name, preset in PRESETS.items():
        if _sizes(preset.transformer) == _sizes(config):
            return name
    return "of its own"


def model_config(
    folder: Path, opened: Any, vqgan: Any, options: SourceOptions, notes: Mapping[str, Any]
) -> ModelConfig:
    """The config of the checkpoint: options first, then our own notes, then what the release says."""
    noted = _noted_config(folder, notes)
    transformer = opened.transformer
    dtype = next(iter(opened.leaves.values())).dtype.name
    grid = GridConfig(patch_px=vqgan.patch_px, unit_px=2 * vqgan.patch_px)
    if noted is not None:
        kept = ("dropout", "compute_dtype", "matmul_dtype", "scan_layers", "remat")
        transformer = replace(transformer, **{n: getattr(noted.transformer, n) for n in kept})
        grid = noted.grid
    else:
        transformer = replace(transformer, compute_dtype=dtype)
    compute_dtype = options.compute_dtype or transformer.compute_dtype
    transformer = replace(transformer, param_dtype=dtype, compute_dtype=compute_dtype)
    layout = options.image_layout or (noted.image_layout if noted else None)
    layout = layout or _likely_layout(folder, opened)
    target_px = options.target_px or (noted.target_px if noted else None) or _named_px(folder)
    max_tokens = noted.max_tokens if noted else _room(opened.max_tokens, target_px, grid, layout)
    return ModelConfig(
        transformer,
        vqgan,
        grid,
        _image_layout(layout),
        options.max_tokens or max_tokens,
        target_px,
    )


def with_options(weights: Weights, options: SourceOptions, folder: Path) -> Weights:
    """One of our checkpoints with its config changed; ValueError for what it cannot be told."""
    for name in ("tokenizer", "vqgan"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"{folder} is a checkpoint with its own {name}: convert the release again with --{name}"
            )
    if options.rotary != "auto":
        raise ValueError(f"{folder} is a checkpoint of ours: its rotary order is known")
    config = weights.config
    vocab = weights.tokenizer.vocab if weights.tokenizer else None
    check(config, vocab, options.preset, folder)
    dtype = options.compute_dtype or config.transformer.compute_dtype
    config = replace(
        config,
        transformer=replace(config.transformer, compute_dtype=dtype),
        image_layout=_image_layout(options.image_layout or config.image_layout),
        target_px=options.target_px or config.target_px,
        max_tokens=options.max_tokens or config.max_tokens,
    )
    return replace(weights, config=config)


def check(config: ModelConfig, vocab: Any, preset: str | None, folder: Path) -> None:
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
    if vocab is None:
        return
    if vocab.num_codes != config.vqgan.num_codes or vocab.size > config.transformer.vocab_size:
        raise ValueError(
            f"{folder}: {config.transformer.vocab_size} ids, a tokenizer of {vocab.size} ids with {vocab.num_codes} "
            f"image codes, a VQGAN of {config.vqgan.num_codes}: these do not belong together"
        )


def _noted_config(folder: Path, notes: Mapping[str, Any]) -> ModelConfig | None:
    """The config that an export of ours noted beside the weights."""
    try:
        return config_from_dict(ModelConfig, notes["model"]) if "model" in notes else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder / NOTES_NAME}: not this version's notes ({error}); remove it to do without"
        ) from error


def _room(stated: int, target_px: int, grid: GridConfig, layout: str) -> int:
    """The longest conversation: what the release says, or what images of the trained area need where that is more."""
    if layout == "chameleon":
        count = image_token_count(target_px, target_px, grid, layout)
        return max(stated, 4096, count + TEXT_ROOM)
    longest = max(image_token_count(*size, grid) for size in crop_sizes(target_px, grid))
    return max(stated, CONVERSATION_TOKENS, 2 * longest + TEXT_ROOM)


def _likely_layout(folder: Path, opened: Any) -> str:
    """Lumina-mGPT's files were trained on size tokens, but for the Chameleons it started from, which are named so."""
    base = any("chameleon" in name.lower() for name in _names(folder))
    return "uni_rep" if opened.layout == "lumina" and not base else "chameleon"


def _named_px(folder: Path) -> int:
    """The trained square's side out of a name such as Lumina-mGPT-7B-768-Omni; 512, Chameleon's, where there is none.

    >>> _named_px(Path("Lumina-mGPT-7B-1024")), _named_px(Path("models/7b"))
    (1024, 512)
    >>> _named_px(Path("models--Alpha-VLLM--Lumina-mGPT-7B-768/snapshots/0a1b"))
    768
    """
    for name in _names(folder):
        found = re.search(r"[-_](512|768|1024)(?!\d)", name)
        if found:
            return int(found[1])
    return 512


def _names(folder: Path) -> list[str]:
    """The folder's own name, and the model's in the cache of Hugging Face's hub."""
    return [folder.name, *(part for part in folder.parts if part.startswith("models--"))]


def _image_layout(name: str) -> Any:
    return pick({layout: layout for layout in IMAGE_LAYOUTS}, name, "image layout")


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
