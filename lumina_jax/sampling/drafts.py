"""First guesses for the positions that enter a window: what speculative Jacobi decoding starts from.

No choice changes what is drawn ("tied": not a token; "coupled": not the law), only how many passes it takes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from lumina_jax.dims import Array


def uniform(noise: Array, ids: Array, at: Array, stride: Array, first_code_id: int) -> Array:
    """Any code, as likely as another: the one whose noise is largest."""
    return jnp.argmax(noise, axis=-1)


def above(noise: Array, ids: Array, at: Array, stride: Array, first_code_id: int) -> Array:
    """The code in the same column of the row above; any code in the first row."""
    source = jnp.take_along_axis(ids, jnp.maximum(at - stride[:, None], 0), axis=1) - first_code_id
    num_codes = noise.shape[-1]
    known = (source >= 0) & (source < num_codes)
    return jnp.where(known, source, uniform(noise, ids, at, stride, first_code_id))


DRAFTS: Mapping[str, Callable[..., Any]] = {"uniform": uniform, "above": above}
