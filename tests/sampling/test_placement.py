"""How a CPU keeps large matrices: the model draws the same, and is called by the same name."""

import jax
import numpy as np
import pytest

from lumina_jax.lumina import Lumina
from lumina_jax.ops.products import OutputRows, is_stored
from lumina_jax.sampling import placement
from lumina_jax.sampling.placement import plain_weights


@pytest.fixture
def turned(small_lumina, monkeypatch: pytest.MonkeyPatch) -> Lumina:
    """The small model with each of its matrices taken for a large one."""
    monkeypatch.setattr(placement, "LARGE", 0)
    given = plain_weights(small_lumina.params), small_lumina.vqgan_params, small_lumina.tokenizer
    return Lumina(small_lumina.config, *given)


def test_matrices_are_rows_of_outputs_and_the_embedding_is_not(turned, small_lumina) -> None:
    layer = turned.params["layers"]["01"]
    kept = [
        turned.params["head"]["table"],
        *(layer[name] for name in "q k v o gate up down".split()),
    ]
    assert all(isinstance(leaf, OutputRows) for leaf in kept)
    others = len(jax.tree.leaves(turned.params)) - sum(
        map(is_stored, jax.tree.leaves(turned.params, is_leaf=is_stored))
    )
    assert not is_stored(turned.params["embed"]["table"])
    assert others == len(jax.tree.leaves(small_lumina.params)) - 15  # 7 a layer and the head
    assert not any(map(is_stored, jax.tree.leaves(small_lumina.params, is_leaf=is_stored)))


def test_it_paints_the_same_codes(turned, small_lumina) -> None:
    paint = {"size": (64, 48), "seed": [0, 1], "image_top_k": 20}
    prompts = ["a red circle", "a green star"]
    for got, want in zip(
        turned.generate(prompts, **paint), small_lumina.generate(prompts, **paint), strict=True
    ):
        np.testing.assert_array_equal(got.ids, want.ids)


def test_its_name_is_that_of_the_weights(turned, small_lumina) -> None:
    assert turned.checkpoint == small_lumina.checkpoint


def test_given_arrays_are_freed_once_turned_where_they_are_given_away(
    small_lumina, monkeypatch
) -> None:
    monkeypatch.setattr(placement, "LARGE", 0)
    params = jax.tree.map(lambda leaf: leaf + 0, plain_weights(small_lumina.params))
    head, gate = params["head"]["table"], params["layers"]["00"]["gate"]
    placed = placement.place_weights(params, small_lumina.config.transformer, donate=True)
    assert gate.is_deleted() and not head.is_deleted()  # the head's table is its own matrix
    np.testing.assert_array_equal(
        placed["layers"]["00"]["gate"].array(), small_lumina.params["layers"]["00"]["gate"]
    )
