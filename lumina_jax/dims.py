"""The letters of every array axis, checked annotations built from them, and `pick`.

One letter, one meaning, used four ways: in annotations, einsums, weight declarations and sharding rules.

    B sequences          S query tokens in this call   T key/value slots (cache length)
    D model width        N query heads                 K key/value heads
    G N / K              H head size                   F feed-forward width
    V vocabulary         L layers                      W Jacobi window
    Y X C pixel rows, columns, channels                P Q latent rows, columns
    E code width         M codes                       A rank of an adapter

Annotations are checked while tracing where `jaxtyping` and `beartype` are installed, and are inert elsewhere,
so the numerical core runs with jax, flax, optax and numpy alone.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Any])

try:
    from beartype import beartype
    from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8, jaxtyped

    _check = jaxtyped(typechecker=beartype)

except ImportError:

    class _Unchecked:
        """Stands in for a jaxtyping dtype where jaxtyping is absent: `Float[Array, "B S"]` is `Any`."""

        def __class_getitem__(cls, item: object) -> Any:
            return Any

    Array = Any
    PRNGKeyArray = Any
    Bool = Float = Int = UInt8 = _Unchecked
    _check = None


def typed(function: Function) -> Function:
    """Check the shapes and dtypes that `function` declares, once per trace, where the checkers are installed."""
    return function if _check is None else _check(function)


def pick(table: Mapping[str, Value], name: str, what: str = "name") -> Value:
    """`table[name]`, or a ValueError that lists the choices and the nearest one.

    >>> pick({"7b": 1, "34b": 2}, "7b", "preset")
    1
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {what} {name!r}: choose one of {', '.join(sorted(table))}{hint}")


__all__ = [
    "Array",
    "Bool",
    "Float",
    "Int",
    "PRNGKeyArray",
    "UInt8",
    "pick",
    "typed",
]
