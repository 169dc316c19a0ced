"""Classifier-free guidance with the guided and the unguided rows in one batch (arXiv 2408.02657, App. F).

Row 2b is request b with its prompt, row 2b+1 the same image without it: a sequence that begins at the
start-of-image token and counts its own positions from 0, as in training with dropped context.
"""

import jax.numpy as jnp

from lumina_jax.dims import Array, Float, Int, typed


@typed
def guide(
    with_prompt: Float[Array, "B V"], without: Float[Array, "B V"], scale: Float[Array, "B"]
) -> Float[Array, "B V"]:
    """`u + s (c - u)` on raw logits in float32; s = 1 is no guidance (the original code's meaning of s)."""
    with_prompt, without = with_prompt.astype(jnp.float32), without.astype(jnp.float32)
    return without + scale[:, None] * (with_prompt - without)


@typed
def guide_rows(
    logits: Float[Array, "rows V"], scale: Float[Array, "B"], guided: bool
) -> Float[Array, "B V"]:
    """The requests' logits out of the batch's rows: 2B of them, interleaved where `guided`, else B."""
    return guide(logits[0::2], logits[1::2], scale) if guided else logits


@typed
def to_rows(ids: Int[Array, "B ..."], guided: bool) -> Int[Array, "rows ..."]:
    """Give each request's tokens to all of its rows, the inverse of `guide_rows`' pairing."""
    return jnp.repeat(ids, 2, axis=0) if guided else ids
