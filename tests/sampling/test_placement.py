"""How a CPU keeps large matrices: the model draws the same, and is called by the same name."""

import jax
import numpy as np
import pytest

from lumina_jax.checkpoint import load_model, save_model
from lumina_jax.experiment import MeshConfig
from lumina_jax.lumina import Lumina
from lumina_jax.ops.products import OutputRows, is_stored
from lumina_jax.ops.quantize import QuantizedWeight
from lumina_jax.sampling import placement
from lumina_jax.sharding import make_layout


def remade(model: Lumina, **changes) -> Lumina:
    """A model of another one's parts."""
    return Lumina(model.config, model.params, model.vqgan_params, model.tokenizer, **changes)


@pytest.fixture
def turned(small_lumina, monkeypatch: pytest.MonkeyPatch) -> Lumina:
    """The small model with each of its matrices taken for a large one."""
    monkeypatch.setattr(placement, "LARGE", 0)
    return remade(small_lumina)


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
    params = jax.tree.map(lambda leaf: leaf + 0, small_lumina.params)
    head, gate = params["head"]["table"], params["layers"]["00"]["gate"]
    placed = placement.place_weights(params, small_lumina.config.transformer, donate=True)
    assert gate.is_deleted() and not head.is_deleted()  # the head's table is its own matrix
    np.testing.assert_array_equal(
        placed["layers"]["00"]["gate"].array(), small_lumina.params["layers"]["00"]["gate"]
    )


def test_its_parts_make_models_of_other_precisions(turned) -> None:
    gates = [
        remade(turned, precision=name).params["layers"]["00"]["gate"]
        for name in ("float32", "bfloat16", "int8")
    ]
    assert [type(gate) for gate in gates[::2]] == [OutputRows, QuantizedWeight]
    assert gates[1].dtype == "bfloat16"


def test_its_parts_lie_on_a_mesh_as_arrays(turned, small_lumina) -> None:
    layout = make_layout(MeshConfig.parse("tensor=2"), jax.devices()[:2])
    gate = remade(turned, layout=layout).params["layers"]["00"]["gate"]
    assert gate.sharding.num_devices == 2
    np.testing.assert_array_equal(gate, small_lumina.params["layers"]["00"]["gate"])


def test_it_is_saved_as_arrays(turned, small_lumina, tmp_path) -> None:
    save_model(tmp_path / "model", turned.loaded.params, turned.config)
    read = load_model(tmp_path / "model").params["transformer"]
    jax.tree.map(np.testing.assert_array_equal, read, small_lumina.params)
