"""Where arrays lie on a mesh, by their letters; nothing is replicated without being told to."""

import math
from functools import partial

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lumina_jax.sharding.rings import steps_over
from lumina_jax.sharding.strategies import STRATEGIES, Layout, as_tuple


def replicated(layout: Layout) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(layout.mesh, PartitionSpec())


def row_sharding(layout: Layout) -> NamedSharding:
    """Rows split over the batch axes, everything else whole: for arrays [B, …]."""
    return NamedSharding(layout.mesh, PartitionSpec(STRATEGIES[layout.strategy].batch or None))


def batch_sharding(layout: Layout) -> NamedSharding:
    """Rows split over the batch axes, and tokens where the strategy splits a sequence: for [B, S] token arrays."""
    strategy = STRATEGIES[layout.strategy]
    if strategy.activations["S"] is None:
        return row_sharding(layout)
    spec = PartitionSpec(strategy.batch or None, strategy.activations["S"])
    return NamedSharding(layout.mesh, spec)


def batch_ways(layout: Layout | None) -> int:
    """How many pieces the rows of a batch are split into: what their number must be a multiple of."""
    return letter_ways("B", layout)


def letter_axes(letter: str, layout: Layout | None, role: str = "activations") -> tuple[str, ...]:
    """The mesh axes that split a letter; none without a layout."""
    if layout is None:
        return ()
    strategy = STRATEGIES[layout.strategy]
    return as_tuple({"B": strategy.batch, **getattr(strategy, role)}[letter])


def letter_ways(letter: str, layout: Layout | None, role: str = "activations") -> int:
    """How many pieces a letter is split into; 1 without a layout."""
    if layout is None:
        return 1
    return math.prod(layout.mesh.shape[axis] for axis in letter_axes(letter, layout, role))


def place_rows(x: jax.Array, layout: Layout | None) -> jax.Array:
    """`x` with its first axis, rows, split over the batch axes and all else whole; the identity without a layout."""
    return x if layout is None else jax.lax.with_sharding_constraint(x, row_sharding(layout))


def all_tokens(x: jax.Array, layout: Layout | None) -> jax.Array:
    """Ids [B, S], or what is looked up for them [B, S, D], of all devices that share out the embedding's columns.

    Rows stay split over other axes, such as those of copies of the table; D is split as the table's.
    """
    if layout is None:
        return x
    strategy = STRATEGIES[layout.strategy]
    columns = strategy.embedding["D"]
    rows = tuple(axis for axis in strategy.batch if axis not in as_tuple(columns)) or None
    spec = (rows, None, columns)[: x.ndim]
    return jax.lax.with_sharding_constraint(x, NamedSharding(layout.mesh, PartitionSpec(*spec)))


def own_tokens(x: jax.Array, layout: Layout | None) -> jax.Array:
    """What was looked up for `all_tokens`, [B, S, D], where activations lie: first along the axes of rows, then others.

    In one step from columns to rows and tokens a compiler finds no exchange, and makes the array whole everywhere.
    """
    if layout is None:
        return x
    strategy = STRATEGIES[layout.strategy]
    rest = tuple(axis for axis in as_tuple(strategy.embedding["D"]) if axis not in strategy.batch)
    spec = PartitionSpec(strategy.batch or None, None, rest or None)
    x = jax.lax.with_sharding_constraint(x, NamedSharding(layout.mesh, spec))
    return constrain(x, "B S D", layout)


def constrain(
    x: jax.Array, letters: str, layout: Layout | None, role: str = "activations"
) -> jax.Array:
    """`x` held where `layout` wants an array of these letters; the identity without a layout.

    Raises ValueError for an unknown letter or a dimension its mesh axes do not divide.
    """
    if layout is None:
        return x
    return jax.lax.with_sharding_constraint(x, letter_sharding(letters, x.shape, layout, role))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(weight: jax.Array, letters: str, layout: Layout | None) -> jax.Array:
    """A weight as products read it, from where it is stored; its gradient is summed and scattered to there at once.

    Call it with the weight in the compute dtype, which is then what travels, both ways.
    """
    weight = constrain(weight, letters, layout, role="weights")  # else a cast may follow the gather
    stored = letter_axes("D", layout, "weights")
    if layout is None or all(groups is None for _, groups in steps_over(layout.mesh, stored)):
        return constrain(weight, letters, layout, role="gathered")
    return _gathered_by_rings(weight, letters, layout, stored)


def _gathered_by_rings(
    weight: jax.Array, letters: str, layout: Layout, stored: tuple[str, ...]
) -> jax.Array:
    """What SparseCores do beside the products: along one ring of chips after the other, innermost first."""
    axis = letters.split().index("D")

    def gather(weight: jax.Array) -> jax.Array:
        for name, groups in reversed(steps_over(layout.mesh, stored)):
            weight = jax.lax.all_gather(
                weight, name, axis=axis, axis_index_groups=groups, tiled=True
            )
        return weight

    places = (
        letter_sharding(letters, weight.shape, layout, role).spec
        for role in ("weights", "gathered")
    )
    return jax.shard_map(
        gather, mesh=layout.mesh, in_specs=next(places), out_specs=next(places), check_vma=False
    )(weight)


def _gathered_forward(weight: jax.Array, letters: str, layout: Layout | None) -> tuple:
    return gathered(weight, letters, layout), None


def _gathered_backward(letters: str, layout: Layout | None, _: None, gradient: jax.Array) -> tuple:
    return (constrain(gradient, letters, layout, role="weights"),)


gathered.defvjp(_gathered_forward, _gathered_backward)


def letter_sharding(
    letters: str, shape: tuple[int, ...], layout: Layout, role: str = "activations"
) -> NamedSharding:
    """Where an array of these letters lies; ValueError as for `constrain`."""
    what = f"{role.removesuffix('s')} {letters!r}"
    return NamedSharding(layout.mesh, spec_of(role, letters, shape, layout, what))


def spec_of(
    role: str, letters: str, shape: tuple[int, ...], layout: Layout, what: str
) -> PartitionSpec:
    """PartitionSpec of `letters` by the strategy's table `role`, checked against `shape`."""
    strategy = STRATEGIES[layout.strategy]
    table = {"B": strategy.batch or None, **getattr(strategy, role)}
    names = letters.split()
    if len(names) != len(shape):
        raise ValueError(f"{what}: {len(names)} letters {letters!r} for shape {tuple(shape)}")
    for name, size in zip(names, shape, strict=True):
        if name not in table:
            raise ValueError(
                f"{what}: strategy {layout.strategy!r} has no {role} row for letter {name!r}"
            )
        axes = as_tuple(table[name])
        ways = int(np.prod([layout.mesh.shape[axis] for axis in axes]))
        if size % ways:
            fitting = [n for n in range(1, size + 1) if size % n == 0]
            raise ValueError(
                f"{what}: {name} of size {size} cannot be split {ways} ways over mesh axis {'+'.join(axes)}; "
                f"sizes that fit: {', '.join(map(str, fitting))}"
            )
    return PartitionSpec(*(table[name] for name in names))
