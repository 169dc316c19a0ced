"""The loss by chunks of the vocabulary on a mesh: as at once on one device, with no device holding a whole table."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.experiment import MeshConfig
from lumina_jax.ops.losses import token_losses, token_losses_from_hidden
from lumina_jax.plan.hlo import large_buffers
from lumina_jax.sharding import Layout, batch_sharding, letter_sharding, letter_ways, make_layout
from lumina_jax.train.step import _place

MESHES = ("fsdp=8", "data=2,tensor=4", "fsdp=2,tensor=4", "fsdp=4,sequence=2", "data=2,fsdp=4")
B, S, D = 8, 4, 16


def draw(vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states, head and labels, a third of them not predicted."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((B, S, D), np.float32)
    head = 0.3 * rng.standard_normal((vocab_size, D), np.float32)
    labels = rng.integers(0, vocab_size, (B, S))
    return hidden, head, np.where(rng.random((B, S)) < 0.7, labels, -100).astype(np.int32)


def weighted(losses: Any) -> jax.Array:
    """A number in which every token's losses have a weight of their own."""
    weight = 1 + jnp.arange(B * S).reshape(B, S) / 7
    return jnp.sum(weight * losses.cross_entropy) + 0.1 * jnp.sum(
        weight * losses.squared_normaliser
    )


def whole(hidden: Any, head: Any, labels: Any) -> Any:
    losses = token_losses(jnp.einsum("BSD,VD->BSV", hidden, head), labels)
    return weighted(losses), losses


def in_chunks(
    chunk: int, layout: Layout | None, split: int, hidden: Any, head: Any, labels: Any
) -> Any:
    place = {} if layout is None else {"place": partial(_place, layout=layout)}
    losses = token_losses_from_hidden(hidden, head, labels, chunk, split=split, **place)
    return weighted(losses), losses


def graded(function: Any) -> Any:
    return jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))


def assert_same(found: Any, wanted: Any) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("split", "chunk"), [(4, 3), (4, 100), (2, 5), (1, 7)])
def test_chunks_of_several_parts_of_a_vocabulary_equal_all_at_once(split: int, chunk: int):
    """Parts of 11 entries, or 22 or 44, which no chunk divides."""
    given = draw(44)
    assert_same(graded(partial(in_chunks, chunk, None, split))(*given), graded(whole)(*given))


def placed(layout: Layout, hidden: Any, head: Any, labels: Any) -> Any:
    """Each where the layout has it."""
    places = (
        letter_sharding("B S D", hidden.shape, layout),
        letter_sharding("V D", head.shape, layout, "weights"),
        batch_sharding(layout),
    )
    return jax.device_put((hidden, head, labels), places)


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(mesh, marks=() if mesh == "fsdp=2,tensor=4" else pytest.mark.slow)
        for mesh in MESHES
    ],
)
def test_chunks_on_a_mesh_equal_all_at_once_on_one_device(mesh: str):
    layout, given = make_layout(MeshConfig.parse(mesh)), draw(44)
    split = letter_ways("V", layout)
    found = graded(partial(in_chunks, 3, layout, split))(*placed(layout, *given))
    assert_same(found, graded(whole)(*given))


def test_no_device_of_fsdp_holds_the_head_or_its_gradient_whole():
    """Nor half of either; without places the same program would."""
    layout, given = make_layout(MeshConfig.parse("fsdp=8")), draw(4096)
    head_bytes = given[1].nbytes
    found = []
    for place in (layout, None):
        step = graded(partial(in_chunks, 64, place, 1))
        text = step.lower(*placed(layout, *given)).compile().as_text()
        found.append(large_buffers(text, head_bytes // 2))
    assert found[0] == [] and found[1] != []
