"""Where arrays live on a device mesh: strategies as a table of letters, and every placement derived from it."""

from lumina_jax.sharding.arrays import (
    all_tokens,
    batch_sharding,
    batch_ways,
    constrain,
    gathered,
    letter_axes,
    letter_sharding,
    letter_ways,
    own_tokens,
    place_rows,
    replicated,
    row_sharding,
)
from lumina_jax.sharding.rings import ring_steps, steps_over
from lumina_jax.sharding.strategies import (
    STRATEGIES,
    Layout,
    Strategy,
    make_layout,
    make_mesh,
)
from lumina_jax.sharding.trees import describe, param_shardings, state_shardings

__all__ = [
    "Layout",
    "STRATEGIES",
    "Strategy",
    "all_tokens",
    "batch_sharding",
    "batch_ways",
    "constrain",
    "describe",
    "gathered",
    "letter_axes",
    "letter_sharding",
    "letter_ways",
    "make_layout",
    "make_mesh",
    "own_tokens",
    "param_shardings",
    "place_rows",
    "replicated",
    "row_sharding",
    "ring_steps",
    "state_shardings",
    "steps_over",
]
