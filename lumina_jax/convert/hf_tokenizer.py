"""A tokenizer and the processors' settings as transformers' Chameleon classes load them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_jax.unirep.text import ReleasedTokenizer
from lumina_jax.unirep.vocab import (
    BOS_NAME,
    EOS_NAME,
    IMAGE_END_NAME,
    IMAGE_START_NAME,
    PAD_NAME,
    SEPARATOR_NAME,
    UNKNOWN_NAME,
)

RESERVED_NAME, IMAGE_NAME = (
    "<reserved08707>",
    "<image>",
)  # transformers' name for a place of an image
MAX_LENGTH = 4096
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": MAX_LENGTH,
    "bos_token": BOS_NAME,
    "eos_token": EOS_NAME,
    "pad_token": PAD_NAME,
    "unk_token": UNKNOWN_NAME,
    "sep_token": SEPARATOR_NAME,
    "extra_special_tokens": {
        "image_token": IMAGE_NAME,
        "boi_token": IMAGE_START_NAME,
        "eoi_token": IMAGE_END_NAME,
    },
    "clean_up_tokenization_spaces": False,
}
IMAGE_PROCESSOR = {
    "image_processor_type": "ChameleonImageProcessor",
    "processor_class": "ChameleonProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 512},
    "resample": 1,  # LANCZOS
    "do_center_crop": True,
    "crop_size": {"height": 512, "width": 512},
    "do_rescale": True,
    "rescale_factor": 0.0078,  # transformers' 2/255, so rounded
    "do_normalize": True,
    "image_mean": [1.0, 1.0, 1.0],
    "image_std": [1.0, 1.0, 1.0],
    "do_convert_rgb": True,
}
PROCESSOR = {
    "processor_class": "ChameleonProcessor",
    "image_seq_length": 1024,
    "image_token": IMAGE_NAME,
}


def with_image_name(names: Mapping[str, int]) -> dict[str, int]:
    """The table under transformers' name for the token that stands where an image goes."""
    return {IMAGE_NAME if name == RESERVED_NAME else name: index for name, index in names.items()}


def write(folder: Path, tokenizer: ReleasedTokenizer) -> None:
    """tokenizer.json and the three files of settings."""
    content = json.loads(tokenizer.content)
    content["model"]["vocab"] = with_image_name(content["model"]["vocab"])
    for token in content["added_tokens"]:
        if token["content"] == RESERVED_NAME:
            token["content"] = IMAGE_NAME
    _write(folder / "tokenizer.json", content)
    _write(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    _write(folder / "preprocessor_config.json", IMAGE_PROCESSOR)
    _write(folder / "processor_config.json", PROCESSOR)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
