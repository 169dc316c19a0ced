"""First guesses for the positions that enter a window: what speculative Jacobi decoding starts from.

No choice changes what is drawn ("tied": not a token; "coupled": not the law), only how many passes it takes.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from lumina_jax.dims import Array


class Proposal(NamedTuple):
    """The codes of a window, after a pass or before it."""

    codes: Array  # Int[B, W]
    law: (
        Array | None
    )  # Float[B, W, M]: probabilities they were drawn with; None where ties make them needless


class Draft(Protocol):
    """A row of DRAFTS."""

    def __call__(
        self, noise: Array, ids: Array, at: Array, stride: Array, first_code_id: int, opening: Array
    ) -> Proposal:
        """Guesses for tokens `at`, Int[B, W]: from the positions' noise Float[B, W, M], the sentences Int[B, N] so
        far, the distance Int[B] to the row above, and the log-weights Float[B, M] of the image's first code.
        """
        ...


def uniform(
    noise: Array, ids: Array, at: Array, stride: Array, first_code_id: int, opening: Array
) -> Proposal:
    """Any code, as likely as another: the one whose noise is largest."""
    return Proposal(jnp.argmax(noise, axis=-1), jnp.full_like(noise, 1 / noise.shape[-1]))


def above(
    noise: Array, ids: Array, at: Array, stride: Array, first_code_id: int, opening: Array
) -> Proposal:
    """The code in the same column of the row above; in the first row, a draw from the law of the first code."""
    source = jnp.take_along_axis(ids, jnp.maximum(at - stride[:, None], 0), axis=1) - first_code_id
    num_codes = noise.shape[-1]
    known = (source >= 0) & (source < num_codes)
    law = jnp.where(
        known[..., None], jax.nn.one_hot(source, num_codes), jax.nn.softmax(opening)[:, None]
    )
    drawn = jnp.argmax(opening[:, None] + noise, axis=-1)
    return Proposal(jnp.where(known, source, drawn), law)


DRAFTS: Mapping[str, Draft] = {"uniform": uniform, "above": above}
