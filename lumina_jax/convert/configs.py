"""The configs of released layouts (params.json, config.json, vqgan.yaml, vq_config) as ours, and the way back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lumina_jax.config import TransformerConfig, VQGANConfig

VQ_FIXED = {  # of vqgan.yaml's ddconfig; no others are built
    "attn_resolutions": [],
    "double_z": False,
    "in_channels": 3,
    "out_ch": 3,
}
VQ_RESOLUTION = 512  # px; of vqgan.yaml and vq_config, a note that no layer depends on
HF_ARCHITECTURE = {
    "lumina": "ChameleonXLLMXForConditionalGeneration",
    "transformers": "ChameleonForConditionalGeneration",
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError of one line where the file is none."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: copy the whole folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}: want a JSON object")
    return content


def read_meta_config(folder: Path, dtype: str) -> TransformerConfig:
    """Sizes from Meta's params.json and consolidate_params.json; later entries win."""
    params, more = (read_json(folder / f"{n}params.json") for n in ("", "consolidate_"))
    with _naming(folder / "params.json"):
        merged = {**params, **params.get("model", {}), **more}
        width, num_heads = _whole(merged, "dim"), _whole(merged, "n_heads")
        _refuse_others(merged, qk_normalization=(None, True))
        return TransformerConfig(
            num_layers=_whole(merged, "n_layers"),
            width=width,
            num_heads=num_heads,
            num_kv_heads=merged.get("n_kv_heads") or num_heads,
            head_size=width // num_heads,
            mlp_width=meta_mlp_width(
                width, merged["multiple_of"], merged.get("ffn_dim_multiplier")
            ),
            vocab_size=_whole(merged, "vocab_size"),
            norm_placement="swin" if merged["swin_norm"] else "pre",
            qk_norm_shards=merged["model_parallel_size"],
            norm_eps=merged["norm_eps"],
            rope_theta=merged["rope_theta"],
            param_dtype=dtype,
            compute_dtype=dtype,
        )


def meta_mlp_width(width: int, multiple_of: int, multiplier: float | None = None) -> int:
    """F of Meta's rule: 8/3 of the width, times the multiplier, rounded up.

    >>> meta_mlp_width(4096, 256), meta_mlp_width(8192, 256)
    (11008, 22016)
    """
    return -(-int(int(8 * width / 3) * (multiplier or 1.0)) // multiple_of) * multiple_of


def write_meta_config(config: TransformerConfig) -> dict[str, dict[str, Any]]:
    """Meta's two files by name. Raises ValueError where its rule cannot give the feed-forward width."""
    multiplier = None
    if meta_mlp_width(config.width, 256) != config.mlp_width:
        multiplier = config.mlp_width / int(8 * config.width / 3)
    if meta_mlp_width(config.width, 256, multiplier) != config.mlp_width:
        raise ValueError(
            f"feed-forward width {config.mlp_width}: Meta's layout holds multiples of 256 only"
        )
    model = {
        "dim": config.width,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "vocab_size": config.vocab_size,
        "ffn_dim_multiplier": multiplier,
        "multiple_of": 256,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "qk_normalization": True,
        "swin_norm": config.norm_placement == "swin",
    }
    return {
        "params.json": {"model": model},
        "consolidate_params.json": {"model_parallel_size": config.qk_norm_shards},
    }


def read_hf_config(path: Path, dtype: str) -> TransformerConfig:
    """Sizes from a config.json of Lumina-mGPT or of transformers 4.44 to 5."""
    read = read_json(path)
    if read.get("model_type") != "chameleon":
        raise ValueError(
            f"{path} describes a {read.get('model_type')!r} model: want model_type 'chameleon'"
        )
    with _naming(path):
        head_size = _whole(read, "hidden_size") // _whole(read, "num_attention_heads")
        rope = read.get("rope_parameters") or read.get("rope_scaling") or {}
        _refuse_others(
            read,
            attention_bias=(None, False),
            mlp_bias=(None, False),
            tie_word_embeddings=(None, False),
            hidden_act=(None, "silu"),
            head_dim=(None, head_size),
        )
        _refuse_others(rope, rope_type=(None, "default"), type=(None, "default"))
        return TransformerConfig(
            num_layers=_whole(read, "num_hidden_layers"),
            width=_whole(read, "hidden_size"),
            num_heads=_whole(read, "num_attention_heads"),
            num_kv_heads=_whole(read, "num_key_value_heads"),
            head_size=head_size,
            mlp_width=_whole(read, "intermediate_size"),
            vocab_size=_whole(read, "vocab_size"),
            norm_placement="swin" if read.get("swin_norm") else "pre",
            qk_norm_shards=read.get("model_parallel_size") or 1,
            norm_eps=read.get("rms_norm_eps", 1e-5),
            rope_theta=float(
                read.get("rope_theta") or (read.get("rope_parameters") or {}).get("rope_theta", 1e4)
            ),
            dropout=read.get("dropout") or 0.0,
            param_dtype=dtype,
            compute_dtype=dtype,
        )


def write_hf_config(
    layout: str,
    config: TransformerConfig,
    vqgan: VQGANConfig,
    max_tokens: int,
    names: Mapping[str, int],
) -> dict[str, Any]:
    """The config.json of "lumina" or "transformers"; `names`: the tokenizer's name -> id table."""
    content = {
        "architectures": [HF_ARCHITECTURE[layout]],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": names["<s>"],
        "pad_token_id": names["<pad>"],
        "eos_token_id": names["</s>"],
        "dropout": config.dropout,
        "hidden_act": "silu",
        "hidden_size": config.width,
        "initializer_range": 0.02,
        "intermediate_size": config.mlp_width,
        "mask_image_logits": False,
        "max_position_embeddings": max_tokens,
        "mlp_bias": False,
        "model_parallel_size": config.qk_norm_shards,
        "model_type": "chameleon",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": None,
        "rope_theta": config.rope_theta,
        "swin_norm": config.norm_placement == "swin",
        "tie_word_embeddings": False,
        "torch_dtype": config.param_dtype,
        "use_cache": True,
        "vocab_size": config.vocab_size,
        "vocabulary_map": dict(names),
        "vq_config": write_vq_config(vqgan),
    }
    if layout == "transformers":  # what the fork alone reads
        del content["dropout"], content["mask_image_logits"]
    return content


def read_vqgan_yaml(path: Path) -> VQGANConfig:
    """The sizes in vqgan.yaml. Raises ValueError where a field is missing or asks for a part we do not build."""
    try:
        params = yaml.safe_load(path.read_text())["model"]["params"]
        sizes = params["ddconfig"]
        for name, value in VQ_FIXED.items():
            if sizes[name] != value:
                raise TypeError(f"{name} is {sizes[name]}, only {value} is supported")
        return VQGANConfig(
            channels=int(sizes["ch"]),
            channel_multipliers=tuple(int(n) for n in sizes["ch_mult"]),
            num_res_blocks=int(sizes["num_res_blocks"]),
            z_channels=int(sizes["z_channels"]),
            code_width=int(params["embed_dim"]),
            num_codes=int(params["n_embed"]),
            dropout=sizes["dropout"],
        )
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: it describes the vqgan.ckpt beside it"
        ) from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a VQGAN description ({type(error).__name__}: {error}): want model.params with "
            "ddconfig, embed_dim and n_embed"
        ) from error


def write_vqgan_yaml(config: VQGANConfig) -> str:
    """A vqgan.yaml as the original code reads it."""
    sizes = {
        **VQ_FIXED,
        "z_channels": config.z_channels,
        "resolution": VQ_RESOLUTION,
        "ch": config.channels,
        "ch_mult": list(config.channel_multipliers),
        "num_res_blocks": config.num_res_blocks,
        "dropout": config.dropout,
    }
    params = {"embed_dim": config.code_width, "n_embed": config.num_codes, "ddconfig": sizes}
    return yaml.safe_dump({"model": {"params": params}}, sort_keys=False)


def read_vq_config(path: Path) -> VQGANConfig:
    """The VQGAN that the vq_config of a transformers config.json describes; its files hold no decoder."""
    read = read_json(path).get("vq_config") or {}
    default = VQGANConfig()
    return VQGANConfig(
        channels=read.get("base_channels", default.channels),
        channel_multipliers=tuple(read.get("channel_multiplier", default.channel_multipliers)),
        num_res_blocks=read.get("num_res_blocks", default.num_res_blocks),
        z_channels=read.get("latent_channels", default.z_channels),
        code_width=read.get("embed_dim", default.code_width),
        num_codes=read.get("num_embeddings", default.num_codes),
        dropout=read.get("dropout", default.dropout),
        has_decoder=False,
    )


def write_vq_config(config: VQGANConfig) -> dict[str, Any]:
    """The inverse of `read_vq_config`."""
    return {
        "attn_resolutions": None,
        "attn_type": "vanilla",
        "base_channels": config.channels,
        "channel_multiplier": list(config.channel_multipliers),
        "double_latent": False,
        "dropout": config.dropout,
        "embed_dim": config.code_width,
        "in_channels": 3,
        "latent_channels": config.z_channels,
        "num_embeddings": config.num_codes,
        "num_res_blocks": config.num_res_blocks,
        "resolution": VQ_RESOLUTION,
    }


def _whole(read: Mapping[str, Any], name: str) -> int:
    """A field that counts something."""
    if type(read[name]) is not int or read[name] < 1:
        raise ValueError(f"{name} is {read[name]!r}, want a whole number")
    return read[name]


def _refuse_others(read: Mapping[str, Any], **built: tuple[Any, ...]) -> None:
    """ValueError where a field asks for a part that Chameleon has not."""
    for name, values in built.items():
        if read.get(name) not in values:
            raise ValueError(f"{name} is {read[name]!r}, Chameleon has {values[-1]!r}")


class _naming:
    """Turns what a wrong config raises into a ValueError that names the file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KeyError):
            raise ValueError(f"{self.path}: the field {error} is missing") from error
        if isinstance(error, TypeError | ValueError | AttributeError | ZeroDivisionError):
            raise ValueError(f"{self.path}: not a Chameleon's config ({error})") from error
