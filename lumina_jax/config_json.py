"""Configs as JSON and back: frozen dataclasses, nested, with tuples, unions and literals."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


def config_to_dict(config: Any) -> Any:
    """A dataclass as JSON values; tuples become lists. Inverse: `config_from_dict`."""
    if dataclasses.is_dataclass(config):
        names = [field.name for field in dataclasses.fields(config)]
        return {name: config_to_dict(getattr(config, name)) for name in names}
    if isinstance(config, tuple | list):
        return [config_to_dict(item) for item in config]
    if isinstance(config, Mapping):
        return {key: config_to_dict(item) for key, item in config.items()}
    return config


def config_from_dict(kind: type[Config], content: Any) -> Config:
    """Build `kind` from JSON values. Unknown or missing fields raise a TypeError that names them."""
    return _build(kind, content)


def differing_fields(first: Any, second: Any, prefix: str = "") -> list[str]:
    """["train.seed: 0 -> 1", …]: where two JSON values differ, depth first."""
    if isinstance(first, dict) and isinstance(second, dict):
        names = [*first, *(name for name in second if name not in first)]
        parts = [(f"{prefix}.{name}" if prefix else name, name) for name in names]
        found = (differing_fields(first.get(n), second.get(n), path) for path, n in parts)
        return [line for lines in found for line in lines]
    same_length = isinstance(first, list) and isinstance(second, list) and len(first) == len(second)
    if same_length:
        pairs = enumerate(zip(first, second, strict=True))
        found = (differing_fields(a, b, f"{prefix}.{index}") for index, (a, b) in pairs)
        return [line for lines in found for line in lines]
    return [] if first == second else [f"{prefix}: {first!r} -> {second!r}"]


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(kind: Any, content: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        unknown = set(content) - {field.name for field in dataclasses.fields(kind)}
        if unknown:
            raise TypeError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
        hints = _hints(kind)
        return kind(**{name: _build(hints[name], item) for name, item in content.items()})
    if origin is tuple:
        same = len(arguments) == 2 and arguments[1] is Ellipsis
        kinds = [arguments[0]] * len(content) if same else arguments
        return tuple(_build(part, item) for part, item in zip(kinds, content, strict=True))
    if origin in (typing.Union, types.UnionType):
        return _build_union(arguments, content)
    return kind(content) if kind is float and isinstance(content, int) else content


def _build_union(kinds: tuple, content: Any) -> Any:
    """The one dataclass of a union whose fields `content` fits."""
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and isinstance(content, dict):
            names = {field.name for field in dataclasses.fields(kind)}
            if set(content) <= names:
                return _build(kind, content)
    return content
