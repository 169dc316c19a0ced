"""The face in other precisions: loading, painting, reading, and what the PNG tells."""

from pathlib import Path

import jax
import numpy as np
import pytest

from lumina_jax import Lumina, orbax_io
from lumina_jax.checkpoint import save_model
from lumina_jax.image_files import read_metadata
from lumina_jax.model.precision import PRECISIONS, weight_bytes
from lumina_jax.ops.quantize import QuantizedWeight
from lumina_jax.sampling import sequential

FEW = {"guidance": 2.0, "image_top_k": 30}


@pytest.fixture(scope="module")
def checkpoint(small_lumina, tmp_path_factory) -> Path:
    """The small model on disk."""
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    model = small_lumina
    return save_model(path, model.loaded.params, model.config, model.tokenizer)


@pytest.fixture(scope="module")
def int8(checkpoint: Path) -> Lumina:
    """The small model with weights and cache in int8."""
    return Lumina.load(checkpoint, precision="int8")


@pytest.mark.slow
def test_loading_keeps_leaf_by_leaf_what_quantising_the_whole_keeps(
    small_lumina, checkpoint: Path, monkeypatch
) -> None:
    """One leaf is read at a time; no array of the checkpoint's size is asked for at once."""
    read = []
    load = orbax_io.load_arrays
    monkeypatch.setattr(orbax_io, "KEPT_BYTES", 1)
    monkeypatch.setattr(
        orbax_io,
        "load_arrays",
        lambda path, tree, sums: read.append(tree) or load(path, tree, sums),
    )
    loaded = Lumina.load(checkpoint, precision="int8")
    assert {len(jax.tree.leaves(tree)) for tree in read} == {1}
    model = small_lumina
    whole = Lumina(
        model.config, model.params, model.vqgan_params, model.tokenizer, precision="int8"
    )
    assert jax.tree.structure(loaded.params) == jax.tree.structure(whole.params)
    for got, want in zip(*map(jax.tree.leaves, (loaded.params, whole.params)), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_reads_near_float32(small_lumina, checkpoint: Path, name: str) -> None:
    """Random weights, logits of deviation 1: bfloat16 and int8 move them by a few hundredths, int4 by some tenths."""
    model = Lumina.load(checkpoint, precision=name)
    ids = np.arange(24).reshape(2, 12)
    want, got = small_lumina.logits(ids), model.logits(ids)
    least = 0 if name == "float32" else 1e-4
    assert least <= np.std(got - want) <= (0.5 if name == "int4" else 0.1) * np.std(want)
    assert weight_bytes(model.params) <= weight_bytes(small_lumina.params)


def test_int8_model_paints_and_says_so(int8: Lumina, tmp_path: Path) -> None:
    """Alone or in a list the same image; its PNG names the checkpoint and the precision."""
    alone = int8.generate("a red star", (48, 32), seed=4, **FEW)
    both = int8.generate(["a circle", "a red star"], [(32, 16), (48, 32)], seed=4, **FEW)
    np.testing.assert_array_equal(both[1].pixels, alone.pixels)
    stored = read_metadata(alone.save(tmp_path / "star.png"))
    assert (stored["precision"], stored["checkpoint"]) == ("int8", int8.checkpoint)
    assert isinstance(int8.loaded.params["transformer"]["head"]["table"], QuantizedWeight)


def test_the_original_grammar_reads_an_int8_cache(int8: Lumina) -> None:
    from lumina_jax.config import SampleConfig
    from lumina_jax.sampling.generate import Request, generate
    from lumina_jax.unirep.conversation import prompt_ids

    settings = SampleConfig(grammar="original", **FEW)
    request = Request(prompt_ids("a star", int8.tokenizer), 48, 32, num_tokens=5)
    assert generate(int8.loaded, [request], settings)[0].ids.shape == (5,)


def test_quantised_parts_have_a_digest_of_their_own(small_lumina, int8: Lumina) -> None:
    parts = int8.vqgan_params, int8.tokenizer
    assert Lumina(int8.config, int8.params, *parts).checkpoint != small_lumina.checkpoint


def test_requests_of_an_int8_model_share_a_compiled_program(int8: Lumina) -> None:
    int8.generate("a red star", (48, 32), seed=1, **FEW)
    before = sequential.draw_run._cache_size()
    int8.generate("a circle", (32, 48), seed=2, guidance=3.0, image_top_k=4)
    assert sequential.draw_run._cache_size() == before


def test_unknown_precision_is_refused_with_the_choices(checkpoint: Path) -> None:
    with pytest.raises(
        ValueError, match="unknown precision 'int9': choose one of bfloat16, .*int8"
    ):
        Lumina.load(checkpoint, precision="int9")
