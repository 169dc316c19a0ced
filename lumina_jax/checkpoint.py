"""Orbax in one place: training checkpoints to resume from, and model checkpoints to load, send and keep.

A model checkpoint is a folder: `config.json`, `text_tokenizer.json` or `tokenizer.model`, and `params/`, an
Orbax tree with one array and one digest a leaf, because Orbax itself loads a flipped bit in silence. In a bucket, where
no folder can be renamed, the weights are in `params-<digest>/`, config.json names it and is written last: whoever finds
a config.json finds a complete model, and another model is put in its place by writing that one object.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from lumina_jax.checksums import digests_of_leaves
from lumina_jax.config import ModelConfig
from lumina_jax.config_json import config_from_dict, config_to_dict
from lumina_jax.ops.products import plain_weights
from lumina_jax.orbax_io import (
    DIGESTS,
    CheckpointError,
    Keep,
    abstract_arrays,
    load_kept,
    read_digests,
    read_metadata,
    reporting_writes,
    storage,
)
from lumina_jax.paths import (
    absolute,
    as_path,
    is_remote,
    remove_folder,
    write_bytes,
)
from lumina_jax.sharding import Layout

FORMAT = 3  # of the model checkpoint's folder
ASSETS = Path(__file__).parent / "assets"
PARAMS = "params"  # folder of the weights, and key of its name in a config.json that names another
NO_PART = "0" * 12  # `digest` of a part that a checkpoint does not have


class LoadedModel(NamedTuple):
    """A model checkpoint in memory: `params` holds "transformer", "vqgan" or both."""

    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Any = None  # unirep.text.TextTokenizer, or None for a VQGAN alone
    layout: Layout | None = None  # the mesh that the transformer's weights lie on, and how


def resolve(path: str | Path) -> Path:
    """The folder of a checkpoint, absolute: a path, or the name of one shipped in `lumina_jax/assets`."""
    path = as_path(path)
    if is_remote(path):
        if not path.exists():
            raise CheckpointError(f"{path}: no checkpoint there; give its folder")
        return path
    shipped = ASSETS / path
    if len(path.parts) == 1 and shipped.exists() and not (path / "config.json").exists():
        return shipped  # whatever else has this name here
    previous = path.with_name(path.name + ".previous")
    if not path.exists() and previous.exists():
        return previous.absolute()  # a crash between the two renames of `_swap`
    if not path.exists():
        names = sorted(entry.name for entry in ASSETS.glob("*") if entry.is_dir())
        have = f" (shipped: {', '.join(names)})" if names else ""
        raise CheckpointError(f"{path}: no checkpoint there; give its folder{have}")
    return path.absolute()  # Orbax finds nothing under a relative path


def save_model(
    path: str | Path,
    params: Mapping[str, Any],
    config: ModelConfig,
    tokenizer: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model checkpoint; an existing one at `path` is replaced only once the new one is complete.

    `params`: {"transformer": tree, "vqgan": tree}, either may be absent. `extra`: JSON notes (step, run).
    Returns the folder.
    """
    path, params = absolute(path), plain_weights(params)
    if is_remote(path):
        return _save_in_bucket(path, params, config, tokenizer, extra)
    temporary = path.with_name(path.name + ".writing")

    def begin() -> None:
        remove_folder(temporary)
        temporary.mkdir(parents=True)
        write_config(temporary, config, tokenizer, extra)

    on_first_process(begin)
    tree = {name: part for name, part in params.items() if part}
    with storage():
        notes = {DIGESTS: digests_of_leaves(tree)}
        ocp.save(temporary / PARAMS, tree, custom_metadata=notes)
    on_first_process(lambda: publish(temporary, path))
    return path


def write_config(
    folder: Path,
    config: ModelConfig,
    tokenizer: Any = None,
    extra: Mapping[str, Any] | None = None,
    params: str = PARAMS,
) -> None:
    """Write the tokenizer of a model checkpoint and then its `config.json`.

    `params`: the folder of its weights; the tokenizer lies in it where it has a name of its own, as in a bucket.
    """
    content = {"format": FORMAT, "model": config_to_dict(config), "extra": dict(extra or {})}
    if params != PARAMS:
        content[PARAMS] = params
    if tokenizer is not None:
        tokenizer.save(folder / params if params != PARAMS else folder)
    fingerprint = getattr(tokenizer, "fingerprint", None)
    write_json(folder / "config.json", {**content, "tokenizer": fingerprint})


def load_model(
    path: str | Path,
    *,
    parts: tuple[str, ...] = ("transformer", "vqgan"),
    shardings: Mapping[str, Any] | None = None,
    keep: Mapping[str, Keep] | None = None,
) -> LoadedModel:
    """Read a model checkpoint ("scenes", or a folder) and verify it.

    `parts`: which trees to read, where present. `shardings`: {"transformer": tree of Sharding}, absent: the first
    device. `keep`: {"transformer": (leaf's name, array) to what is kept of it}, so that what is read is in memory a few
    leaves at a time. Raises CheckpointError with the path and the remedy.
    """
    folder = resolve(path)
    config, _ = read_config(folder)
    weights = params_folder(folder)
    stored = read_metadata(weights).metadata
    wanted = {name: stored[name] for name in parts if name in stored}
    if not wanted:
        raise CheckpointError(f"{folder}: holds {sorted(stored)}, none of {list(parts)}")
    places = shardings or {}
    abstract = {n: abstract_arrays(folder, tree, places.get(n)) for n, tree in wanted.items()}
    params = load_kept(weights, abstract, read_digests(weights), keep or {})
    return LoadedModel(config, params, read_tokenizer(folder))


def read_config(folder: str | Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The config of a model checkpoint and its `extra` notes."""
    file, content = as_path(folder) / "config.json", _read_json(folder)
    try:
        return config_from_dict(ModelConfig, content["model"]), content.get("extra", {})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not a checkpoint's config ({error!r})") from error


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder says that it is one of our model checkpoints, whole or not."""
    try:
        return "format" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def params_folder(folder: Path) -> Path:
    """The folder of a model checkpoint's weights."""
    return folder / _read_json(folder).get(PARAMS, PARAMS)


def _read_json(folder: str | Path) -> dict[str, Any]:
    file = as_path(folder) / "config.json"
    try:
        content = json.loads(file.read_text())
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{file}: format {content['format']}, this version reads {FORMAT}: convert, train or fetch it again"
            )
        return content
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: {folder} is not a model checkpoint") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not a checkpoint's config ({error!r})") from error


def digest(path: str | Path, part: str | None = None) -> str:
    """12 hex digits that name a model checkpoint: another weight, config or tokenizer gives others.

    With `part` ("vqgan") they name its weights alone, and are NO_PART where there are none.
    """
    folder = resolve(path)
    digests = read_digests(params_folder(folder))
    if part is None:
        config, _ = read_config(folder)
        content = [digests, config_to_dict(config), _read_json(folder).get("tokenizer")]
    else:
        return digest_of_part(digests, part)
    return _short_hash(content)


def digest_of_part(digests: Mapping[str, str], part: str) -> str:
    """12 hex digits that name the weights under `part`, of which `digests` holds one a leaf; NO_PART without any."""
    found = {name: value for name, value in digests.items() if name.startswith(f"{part}/")}
    return _short_hash([found]) if found else NO_PART


def _short_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def on_first_process(action: Callable[[], Any]) -> None:
    """Do `action` on process 0 of the cluster while the others wait."""
    if jax.process_index() == 0:
        action()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("on_first_process")


def write_json(file: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_bytes(file, (json.dumps(content, indent=1) + "\n").encode())


def read_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a model checkpoint, None where it has none; CheckpointError if it is not the one saved."""
    folder = resolve(path)
    expected = _read_json(folder).get("tokenizer")
    found = None
    weights = params_folder(folder)
    folder = folder if weights.name == PARAMS else weights
    if any((folder / name).exists() for name in ("text_tokenizer.json", "tokenizer.model")):
        from lumina_jax.unirep.text import load_tokenizer

        found = load_tokenizer(folder)
    if expected is not None and (found is None or found.fingerprint != expected):
        raise CheckpointError(
            f"{folder}: its tokenizer is {'missing' if found is None else 'damaged'}; fetch the folder again"
        )
    return found


def publish(temporary: Path, path: Path) -> None:
    """Put a complete model checkpoint in its place, its temporary name taken out of Orbax's mark of success."""
    mark = temporary / PARAMS / "commit_success.txt"
    if mark.exists():
        mark.write_text("Checkpoint commit was successful\n")
    _swap(temporary, path)


def _swap(temporary: Path, path: Path) -> None:
    """Put `temporary` in the place of `path`; a crash in between leaves one complete folder under a known name."""
    previous = path.with_name(path.name + ".previous")
    remove_folder(previous)
    if path.exists():
        os.replace(path, previous)
    os.replace(temporary, path)
    remove_folder(previous)


def _save_in_bucket(
    path: Path,
    params: Mapping[str, Any],
    config: ModelConfig,
    tokenizer: Any,
    extra: Mapping[str, Any] | None,
) -> Path:
    """As `save_model`: new weights beside those of the config.json that is there, then the config that names them."""
    tree = {name: part for name, part in params.items() if part}
    notes = {DIGESTS: digests_of_leaves(tree)}
    old = _params_in_use(path)
    name = f"{PARAMS}-{hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()[:8]}"
    name += "-again" * (name == old)  # what a reader may be reading is never written over

    def remove_others(kept: str | None) -> None:
        for folder in path.glob(f"{PARAMS}*"):
            if folder.name != kept:
                remove_folder(folder)

    on_first_process(lambda: remove_others(old))  # what killed writers left
    with storage(), reporting_writes(path):
        ocp.save(path / name, tree, custom_metadata=notes)
    on_first_process(lambda: write_config(path, config, tokenizer, extra, name))
    on_first_process(lambda: remove_others(name))
    return path


def _params_in_use(path: Path) -> str | None:
    """The name of the folder of weights that a checkpoint's config names; None without such a config."""
    try:
        return params_folder(path).name
    except CheckpointError:
        return None
