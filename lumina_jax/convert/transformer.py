"""The transformer of every released layout: which stored tensors make up each of our arrays, and the way back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lumina_jax.config import TransformerConfig
from lumina_jax.convert import forms
from lumina_jax.convert.stored_tensor import StoredTensor
from lumina_jax.convert.tables import IGNORED, LAYER, OUTER, Rule
from lumina_jax.convert.weights import Leaf, named
from lumina_jax.model.params import abstract_params
from lumina_jax.model.weights import layer_name

FLOATS = ("bfloat16", "float16", "float32")
# Copies of a replicated vector in the shards of one model are equal, or have drifted apart by a rounding or two.
MAX_DRIFT = 2 * 2**-8  # of each element: two steps of bfloat16


class Entry(NamedTuple):
    """A tensor to be stored."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def rules(config: TransformerConfig) -> Iterator[tuple[str, int, Rule]]:
    """Our name, layer number and rule of every array: ("layers/07/q", 7, Rule(…))."""
    *first, last = OUTER.items()  # the two large tables far apart: memory for one is enough
    for path, rule in first:
        yield "/".join(path), 0, rule
    for i in range(config.num_layers):
        for path, rule in LAYER.items():
            yield "/".join(("layers", layer_name(i), *path)), i, rule
    yield "/".join(last[0]), 0, last[1]


def stored_key(layout: str, rule: Rule, i: int) -> str:
    """The key of a rule in a layout."""
    return (rule.meta_key if layout == "meta" else rule.hf_key).format(i=i)


def read_leaves(
    layout: str,
    config: TransformerConfig,
    shards: Sequence[Mapping[str, StoredTensor]],
    where: Path,
    adjacent_pairs: bool,
) -> dict[str, Leaf]:
    """Our arrays by name, unread, out of the stored tensors of every shard (one, but for Meta's).

    Raises ValueError naming the key that is missing, unknown or misshapen, or of another dtype than the rest.
    """
    known = {stored_key(layout, rule, i) for _, i, rule in rules(config)}
    for shard in shards:
        check_keys(layout, shard, known, where)
    shapes = {name: tuple(leaf.shape) for name, leaf in named(abstract_params(config))}
    dtype = _common_dtype(shards, known)
    leaves = {}
    for name, i, rule in rules(config):
        key, shape = stored_key(layout, rule, i), shapes[name]
        parts = [shard[key] for shard in shards]
        for index, part in enumerate(parts):
            wanted = _wanted_shape(layout, config, rule, shape, index, len(shards))
            if part.shape != wanted:
                raise ValueError(
                    f"{part.where}: {key} has shape {part.shape}, its config wants {wanted}; "
                    "weights and config are of different models"
                )
        read = _reader(layout, config, rule, parts, shape, adjacent_pairs)
        leaves[name] = Leaf(shape, dtype, read)
    return leaves


def check_keys(
    layout: str, stored: Mapping[str, StoredTensor], known: set[str], where: Path
) -> None:
    """ValueError naming missing and unknown keys; those that are known not to matter are passed over."""
    found = {key for key in stored if not key.startswith(IGNORED[layout])}
    missing, unknown = sorted(known - found), sorted(found - known)
    if missing or unknown:
        file = next(iter(stored.values())).where if stored else where
        raise ValueError(
            f"{file}: {len(missing)} weights missing {missing[:2]}, {len(unknown)} unknown {unknown[:2]}; "
            "the config beside it describes another model"
        )


def check_replicas(
    config: TransformerConfig, shards: Sequence[Mapping[str, StoredTensor]]
) -> list[str]:
    """The keys of replicated vectors whose copies in Meta's shards are not all equal.

    Raises ValueError where they are so different that the shards are of different models.
    """
    drifted = []
    queries = [shard[LAYER[("q",)].meta_key.format(i=0)].read() for shard in shards]
    for first, second in combinations(range(len(shards)), 2):
        if np.array_equal(queries[first].view(np.uint8), queries[second].view(np.uint8)):
            raise ValueError(
                f"shards {first} and {second} hold the same weights: one file is there twice; fetch the missing one"
            )
    for _, i, rule in rules(config):
        if rule.join != "mean" or len(shards) == 1:
            continue
        copies = [
            np.asarray(shard[rule.meta_key.format(i=i)].read(), np.float32) for shard in shards
        ]
        drift = max(float(np.abs(copy - copies[0]).max()) for copy in copies)
        bound = MAX_DRIFT * np.abs(copies[0])
        if any((np.abs(copy - copies[0]) > bound).any() for copy in copies):
            key = rule.meta_key.format(i=i)
            raise ValueError(
                f"{shards[0][key].where} and its neighbours are shards of different models: {key} differs by {drift:g} "
                "between them; fetch all of one release"
            )
        if drift:
            drifted.append(rule.meta_key.format(i=i))
    return drifted


def with_norm_groups(
    config: TransformerConfig, stored: Mapping[str, StoredTensor], where: Path
) -> TransformerConfig:
    """The config with as many q/k-norm rows as the release had, of which transformers stores one a head.

    Raises ValueError where the rows of a head group differ: they were trained apart, and we keep one row a group.
    """
    norms = [
        stored[rule.hf_key.format(i=i)].read()
        for _, i, rule in rules(config)
        if rule.form == "head_rows" and rule.hf_key.format(i=i) in stored
    ]
    counts = [n for n in range(1, config.num_kv_heads + 1) if config.num_kv_heads % n == 0]
    for count in counts:
        if all(len(rows) % count == 0 and _constant_in_groups(rows, count) for rows in norms):
            return replace(config, qk_norm_shards=count)
    raise ValueError(
        f"{where}: the query norms of heads that share a key differ: trained with a norm a head, which this "
        f"model has not (it has one a group, of at most {config.num_kv_heads} groups)"
    )


def stored_entries(
    layout: str, config: TransformerConfig, leaves: Mapping[str, Leaf], shard: int = 0
) -> dict[str, Entry]:
    """The tensors of one file (of Meta's: shard `shard` of qk_norm_shards) by key: the inverse of `read_leaves`."""
    return {
        stored_key(layout, rule, i): _writer(layout, config, rule, leaves[name], shard)
        for name, i, rule in rules(config)
    }


def _reader(
    layout: str,
    config: TransformerConfig,
    rule: Rule,
    parts: Sequence[StoredTensor],
    shape: tuple[int, ...],
    adjacent_pairs: bool,
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        stored = [part.read() for part in parts]
        if layout == "transformers" and rule.form == "head_rows":
            joined = stored[0][:: stored[0].shape[0] // shape[0]]
        elif layout == "meta":
            joined = forms.join_shards(stored, rule.join)
        else:
            joined = stored[0].reshape(forms.stored_shape(rule.form, shape))
        if rule.rotary and adjacent_pairs:
            joined = forms.halves_from_pairs(rule.form, joined, config.head_size)
        return forms.from_stored(rule.form, joined, shape)

    return read


def _writer(layout: str, config: TransformerConfig, rule: Rule, leaf: Leaf, shard: int) -> Entry:
    shape, count = forms.stored_shape(rule.form, leaf.shape), config.qk_norm_shards
    heads = _num_heads(config, rule)
    if layout == "meta":
        shape = forms.shard_shape(shape, rule.join, shard, count)
    elif layout == "transformers" and rule.form == "head_rows":
        shape = (heads, shape[1])

    def read() -> np.ndarray:
        stored = forms.to_stored(rule.form, leaf.read())
        if layout == "meta":
            if rule.rotary:
                stored = forms.pairs_from_halves(rule.form, stored, config.head_size)
            return forms.shard_of(stored, rule.join, shard, count)
        if layout == "transformers" and rule.form == "head_rows":
            return np.repeat(stored, heads // count, axis=0)
        return stored

    return Entry(shape, leaf.dtype, read)


def _wanted_shape(
    layout: str,
    config: TransformerConfig,
    rule: Rule,
    shape: tuple[int, ...],
    index: int,
    num_shards: int,
) -> tuple[int, ...]:
    """The shape under which a layout stores one of our arrays, in one of its shards."""
    stored = forms.stored_shape(rule.form, shape)
    if layout == "meta":
        return forms.shard_shape(stored, rule.join, index, num_shards)
    if rule.form != "head_rows":
        return stored
    return {
        "lumina": stored,
        "transformers": (_num_heads(config, rule), config.head_size),
        "anole": (config.head_size,),
    }[layout]


def _num_heads(config: TransformerConfig, rule: Rule) -> int:
    return config.num_heads if "q_norm" in rule.hf_key else config.num_kv_heads


def _common_dtype(shards: Sequence[Mapping[str, StoredTensor]], known: set[str]) -> np.dtype:
    """The one floating dtype of all weights."""
    first = None
    for shard in shards:
        for key in sorted(known):
            tensor = shard[key]
            first = first or tensor
            if tensor.dtype != first.dtype or tensor.dtype.name not in FLOATS:
                raise ValueError(
                    f"{tensor.where}: {key} is {tensor.dtype.name}, {first.name} {first.dtype.name}; "
                    f"want one dtype for all, of {', '.join(FLOATS)}"
                )
    assert first is not None
    return first.dtype


def _constant_in_groups(rows: np.ndarray, count: int) -> bool:
    groups = rows.reshape(count, -1, rows.shape[-1])
    return bool((groups == groups[:, :1]).all())
