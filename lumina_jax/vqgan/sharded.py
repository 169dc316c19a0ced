"""Images to codes and back as compiled functions, on one device or split over all devices of a mesh.

A mesh splits the images of a batch first, then the rows of each, then the columns; what it divides none of is done on
every device alike. Only codes or pixels are told where to lie: XLA exchanges the edges that convolutions reach over,
sums GroupNorm's moments over the devices, and gathers keys and values for attention. Weights are whole everywhere.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lumina_jax.config import VQGANConfig
from lumina_jax.dims import Array
from lumina_jax.sharding import Layout, replicated
from lumina_jax.vqgan.codec import decode, encode, from_pixels, to_pixels


def place_vqgan(params: Any, layout: Layout | None = None) -> Any:
    """Weights in float32, whole on every device of the mesh, or on the default device."""
    if layout is None:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), params)
    place = replicated(layout)
    return jax.tree.map(lambda leaf: jax.device_put(leaf.astype("float32"), place), params)


@partial(jax.jit, static_argnames=("config", "layout"))
def encode_pixels(
    params: Any, pixels: Array, config: VQGANConfig, layout: Layout | None = None
) -> Array:
    """uint8[B, Y, X, 3] to codes, int32[B, P, Q]."""
    grid = tuple(size // config.patch_px for size in pixels.shape[1:3])
    return encode(params, config, from_pixels(_split(pixels, grid, layout)))


@partial(jax.jit, static_argnames=("config", "layout"))
def decode_codes(
    params: Any, codes: Array, config: VQGANConfig, layout: Layout | None = None
) -> Array:
    """Codes, Int[B, P, Q], to uint8[B, Y, X, 3]."""
    return to_pixels(decode(params, config, _split(codes, codes.shape[1:], layout)))


def decode_images(
    params: Any, images: Sequence[np.ndarray], config: VQGANConfig, layout: Layout | None = None
) -> list[np.ndarray]:
    """Codes [P, Q] of each image to its uint8[Y, X, 3], in order.

    On a mesh images of one size are decoded as many at a time as there are devices, one on each. The rest, and all
    images without a mesh, are decoded one by one.
    """
    together = 1 if layout is None else layout.mesh.size
    pixels: dict[int, np.ndarray] = {}
    for shape in dict.fromkeys(codes.shape for codes in images):
        places = [place for place, codes in enumerate(images) if codes.shape == shape]
        num_full = len(places) // together * together
        parts = [places[first : first + together] for first in range(0, num_full, together)]
        for part in parts + [[place] for place in places[num_full:]]:
            batch = np.stack([images[place] for place in part])
            decoded = np.asarray(decode_codes(params, batch, config, layout))
            pixels.update(zip(part, decoded, strict=True))
    return [pixels[place] for place in range(len(images))]


def image_sharding(num_images: int, grid: tuple[int, ...], layout: Layout) -> NamedSharding:
    """How a mesh splits [num_images, rows, columns, …] of images of `grid` = (P, Q) patches.

    Each mesh axis goes to the first of images, rows and columns that it divides, and to none where there is no such.
    """
    sizes, axes = [num_images, *grid], [[], [], []]
    for name, ways in layout.mesh.shape.items():
        for place, size in enumerate(sizes):
            if size % ways == 0:
                sizes[place] //= ways
                axes[place].append(name)
                break
    return NamedSharding(layout.mesh, PartitionSpec(*(tuple(names) or None for names in axes)))


def _split(images: Array, grid: tuple[int, ...], layout: Layout | None) -> Array:
    if layout is None:
        return images
    place = image_sharding(images.shape[0], grid, layout)
    return jax.lax.with_sharding_constraint(images, place)
