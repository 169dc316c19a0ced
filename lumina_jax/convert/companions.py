"""What belongs to a transformer's weights and lies beside them: the tokenizer, the VQGAN, and our own notes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.config import VQGANConfig
from lumina_jax.convert.configs import read_json, read_vq_config, read_vqgan_yaml
from lumina_jax.convert.stored_tensor import StoredTensor
from lumina_jax.convert.tensor_files import open_tensors
from lumina_jax.convert.vqgan import read_leaves
from lumina_jax.convert.weights import Leaf
from lumina_jax.paths import as_path
from lumina_jax.unirep.text import JSON_NAME, TextTokenizer, load_tokenizer

TOKENIZER_NAMES = (JSON_NAME, "tokenizer.json")  # Meta's; transformers'
VQGAN_NAME = "vqgan.ckpt"
WEIGHT_SUFFIXES = (".pth", ".safetensors", ".bin", ".json")
NOTES_NAME = (
    "lumina_jax.json"  # what a layout has no field for: image layout, trained area, settings
)


class FoundVQGAN(NamedTuple):
    """The VQGAN that goes with a transformer."""

    config: VQGANConfig
    leaves: dict[str, Leaf]  # unread
    path: Path | None  # of vqgan.ckpt, where it has a file of its own
    line: str  # about it, for people


def find_tokenizer(folder: Path, given: str | Path | None) -> TextTokenizer:
    """The tokenizer named on the command line, or the one beside the weights.

    Raises FileNotFoundError saying where it was looked for.
    """
    if given is not None:
        return load_tokenizer(given)
    for place in _places(folder):
        for name in TOKENIZER_NAMES:
            if (place / name).is_file():
                return load_tokenizer(place / name)
    raise FileNotFoundError(
        f"no {' or '.join(TOKENIZER_NAMES)} in {_listed(folder)}: give it with --tokenizer; "
        "Chameleon's release has it in its folder tokenizer/"
    )


def find_vqgan(
    folder: Path, given: str | Path | None, vqmodel: Mapping[str, StoredTensor]
) -> FoundVQGAN:
    """The VQGAN named on the command line, beside the weights or in them.

    `vqmodel`: the tensors of transformers' files, by the release's keys; they lack the decoder, so a vqgan.ckpt goes
    first, and must then hold the same encoder. Raises FileNotFoundError where there is none.
    """
    path = as_path(given) if given is not None else _beside(folder, VQGAN_NAME)
    if path is not None:
        path = path / VQGAN_NAME if path.is_dir() else path
        config = read_vqgan_yaml(path.with_suffix(".yaml"))
        stored = open_tensors(path)
        _check_same(stored, vqmodel, path)
        return FoundVQGAN(config, read_leaves(config, stored, path), path, str(path))
    if vqmodel:
        config = read_vq_config(folder / "config.json")
        leaves = read_leaves(config, vqmodel, folder)
        line = "the files' own vqmodel, without a decoder: reads images, paints none"
        return FoundVQGAN(config, leaves, None, line)
    raise FileNotFoundError(
        f"no {VQGAN_NAME} in {_listed(folder)}: give it with --vqgan, its vqgan.yaml beside it; Chameleon's release "
        "has both in its folder tokenizer/"
    )


def read_notes(folder: Path) -> Mapping[str, Any]:
    """What an export of ours noted beside the weights, {} where there is nothing."""
    path = folder / NOTES_NAME
    return read_json(path) if path.is_file() else {}


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's folder that say what it is."""
    return [path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES]


def companion_files(tokenizer: TextTokenizer | None, vqgan: Path | None) -> list[Path]:
    """The files of tokenizer and VQGAN."""
    found = [tokenizer.path] if tokenizer else []
    return [*found, *([vqgan, vqgan.with_suffix(".yaml")] if vqgan else [])]


def _places(folder: Path) -> list[Path]:
    """Where Meta's and Lumina-mGPT's releases and their mirrors keep what belongs to a model's folder."""
    tokenizers = [
        folder / "tokenizer",
        folder.parent / "tokenizer",
        folder.parent.parent / "tokenizer",
    ]
    return [folder, *tokenizers, folder / "original_tokenizers"]


def _beside(folder: Path, name: str) -> Path | None:
    return next((place / name for place in _places(folder) if (place / name).is_file()), None)


def _listed(folder: Path) -> str:
    return ", ".join(str(place) for place in _places(folder))


def _check_same(
    stored: Mapping[str, StoredTensor], vqmodel: Mapping[str, StoredTensor], path: Path
) -> None:
    """ValueError where vqgan.ckpt holds another encoder than transformers' files."""
    for key, tensor in vqmodel.items():
        other = stored.get(key)
        if other is None or other.shape != tensor.shape or (other.read() != tensor.read()).any():
            raise ValueError(
                f"{path} and {tensor.where} hold different VQGANs ({key} differs): use those of one release"
            )
