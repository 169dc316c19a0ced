"""Painting on eight fake devices: the same images as on one, weights and cache in shards, few collectives."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.aot_decode import PROGRAMS, Setup, build, measure
from lumina_jax import Lumina
from lumina_jax.checkpoint import save_model
from lumina_jax.config import SampleConfig
from lumina_jax.experiment import MeshConfig
from lumina_jax.model.chameleon import forward
from lumina_jax.model.params import abstract_params
from lumina_jax.plan.hlo import collectives, large_copies
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import CACHE_BYTES, MAX_BATCH, batch_limit, generate
from lumina_jax.sampling.placement import (
    cache_shardings,
    sharded_cache,
    weight_formats,
    weight_shardings,
)
from lumina_jax.sampling.policy import gumbel_noise, keep_top_k
from lumina_jax.sharding import Layout, make_layout
from lumina_jax.unirep.conversation import prompt_ids

MESHES = ("tensor=8", "data=2,tensor=4", "data=8", "fsdp=8", "fsdp=4,tensor=2")
DRAWN = SampleConfig(guidance=2.0, image_top_k=40)
NEAR_TIE = 1e-4  # between the two best perturbed logits: XLA rounds differently at different shapes
MAX_NEAR_TIES = 1e-3  # of all tokens


def layout_of(mesh: str) -> Layout:
    config = MeshConfig.parse(mesh)
    return make_layout(config, jax.devices()[: config.num_devices])


@pytest.fixture(scope="module")
def wide(small_lumina) -> Lumina:
    """The small model with eight key heads, and a vocabulary that eight devices divide."""
    sizes = {"width": 64, "num_heads": 16, "num_kv_heads": 8, "vocab_size": 768}
    transformer = replace(small_lumina.config.transformer, qk_norm_shards=4, **sizes)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), abstract_params(transformer)
    )
    config = replace(small_lumina.config, transformer=transformer)
    return Lumina(config, params, small_lumina.vqgan_params, small_lumina.tokenizer)


@pytest.fixture(scope="module")
def checkpoint(wide, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "model"
    return save_model(path, wide.loaded.params, wide.config, wide.tokenizer)


def on_mesh(lumina: Lumina, mesh: str) -> Lumina:
    parts = lumina.params, lumina.vqgan_params, lumina.tokenizer
    return Lumina(lumina.config, *parts, layout=layout_of(mesh))


def gap_of_the_draw(
    lumina: Lumina, request: Request, ids: np.ndarray, place: int, settings: SampleConfig = DRAWN
) -> float:
    """Between the two best perturbed logits of token `place` of the sentence `ids`, by full forwards."""
    vocab = lumina.tokenizer.vocab
    first = vocab.first_code_id
    codes = slice(first, first + vocab.num_codes)
    streams = []
    for context in (request.prompt_ids, np.array([], np.int32)):
        before = jnp.concatenate([context, ids[:place]]).astype(jnp.int32)
        streams.append(forward(lumina.params, lumina.config.transformer, before[None])[0])
    full, none = (np.asarray(logits)[0, -1, codes] for logits in streams)
    logits = none + settings.guidance * (full - none)
    kept = keep_top_k(jnp.asarray(logits)[None], jnp.array([DRAWN.image_top_k]))[0]
    noise = gumbel_noise(jnp.array([request.seed]), jnp.int32(place), len(logits))[0]
    best = np.sort(np.where(kept, logits / DRAWN.temperature + noise, -np.inf))
    return float(best[-1] - best[-2])


WINDOW = replace(DRAWN, decoder="jacobi", window=4, branches=(1, 2))
CASES = [
    ("data=2,tensor=4", DRAWN),
    *(
        pytest.param(mesh, DRAWN, marks=pytest.mark.slow)
        for mesh in MESHES
        if mesh != "data=2,tensor=4"
    ),
    pytest.param("data=2,tensor=4", WINDOW, marks=pytest.mark.slow),
    # one row a request, which two devices cannot split
    pytest.param("data=2,tensor=4", replace(WINDOW, guidance=1.0), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("mesh", "settings"), CASES)
def test_sharded_equals_single(wide, mesh: str, settings: SampleConfig) -> None:
    """Token for token up to near ties, which are counted; a request is compared up to its first."""
    prompts = ["a red star", "a large purple circle, please.", "a star", "It is green."]
    ids = [prompt_ids(text, wide.tokenizer) for text in prompts]
    requests = [Request(each, 128, 96, seed=seed) for seed, each in enumerate(ids)]
    want = generate(wide.loaded, requests, settings)
    got = generate(on_mesh(wide, mesh).loaded, requests, settings)
    compared, near_ties = 0, 0
    for request, single, sharded in zip(requests, want, got, strict=True):
        differing = np.flatnonzero(single.ids != sharded.ids)
        compared += differing[0] if len(differing) else len(single.ids)
        if len(differing):
            near_ties += 1
            place = int(differing[0])
            assert gap_of_the_draw(wide, request, single.ids, place, settings) <= NEAR_TIE
    assert near_ties <= MAX_NEAR_TIES * compared


@pytest.mark.slow
def test_gap_of_the_draw_is_that_of_the_drawn_code(wide) -> None:
    """Most draws are no near ties: a mismatch there would be a mistake, and would be seen."""
    request = Request(prompt_ids("a red star", wide.tokenizer), 32, 32, seed=5)
    ids = generate(wide.loaded, [request], DRAWN)[0].ids
    free = np.flatnonzero(wide.tokenizer.vocab.is_code(ids))
    gaps = [gap_of_the_draw(wide, request, ids, int(place)) for place in free[:6]]
    assert min(gaps) > NEAR_TIE


@pytest.mark.slow
def test_each_device_reads_and_holds_its_share(checkpoint, wide) -> None:
    layout = layout_of("data=2,tensor=4")
    lumina = Lumina.load(checkpoint, layout)
    places = weight_shardings(wide.config.transformer, layout)
    for leaf, place in zip(jax.tree.leaves(lumina.params), jax.tree.leaves(places), strict=True):
        assert leaf.sharding == place
    assert lumina.params["layers"]["00"]["q"].addressable_shards[0].data.shape == (64, 4, 8)
    jax.tree.map(np.testing.assert_array_equal, lumina.params, wide.params)
    image = lumina.generate("a red star", (48, 32), seed=2)
    np.testing.assert_array_equal(
        image.pixels, wide.generate("a red star", (48, 32), seed=2).pixels
    )


def test_weights_keep_their_shards_when_they_are_cast(wide) -> None:
    layout = layout_of("tensor=8")
    bfloat16 = replace(wide.config.transformer, compute_dtype="bfloat16")
    parts = wide.params, wide.vqgan_params, wide.tokenizer
    lumina = Lumina(replace(wide.config, transformer=bfloat16), *parts, layout=layout)
    down = lumina.params["layers"]["01"]["down"]
    assert (down.dtype.name, down.addressable_shards[3].data.shape) == ("bfloat16", (8, 64))


def test_logits_on_a_mesh_equal_those_of_one_device(wide) -> None:
    ids = np.random.default_rng(0).integers(0, 700, (3, 9))
    got = on_mesh(wide, "data=2,tensor=4").logits(ids)
    np.testing.assert_allclose(got, wide.logits(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_original_grammar_paints_the_same_on_a_mesh(wide) -> None:
    settings = replace(DRAWN, grammar="original")
    request = Request(prompt_ids("a star", wide.tokenizer), 32, 32, seed=1, num_tokens=12)
    want = generate(wide.loaded, [request], settings)[0].ids
    got = generate(on_mesh(wide, "data=2,tensor=4").loaded, [request], settings)[0].ids
    np.testing.assert_array_equal(got, want)


def test_cache_is_split_over_heads_and_rows(wide) -> None:
    layout, config = layout_of("data=2,tensor=4"), wide.config.transformer
    cache = jax.jit(lambda: sharded_cache(config, 4, 128, layout))()
    places = cache_shardings(config, 4, 128, layout)
    for leaf, place in zip(jax.tree.leaves(cache), jax.tree.leaves(places), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
    assert cache.values[1].addressable_shards[0].data.shape == (2, 2, 128, 8)


def test_mesh_that_does_not_divide_the_heads_is_one_line(wide) -> None:
    """As the 34B's eight key heads on sixteen chips."""
    config = replace(wide.config, transformer=replace(wide.config.transformer, num_kv_heads=4))
    parts = wide.params, wide.vqgan_params, wide.tokenizer
    with pytest.raises(ValueError, match=r"00/k: K of size 4 .* 8 ways .*fit: 1, 2, 4$") as caught:
        Lumina(config, *parts, layout=layout_of("tensor=8"))
    assert "\n" not in str(caught.value)


def test_batches_grow_with_the_mesh(wide) -> None:
    """Eight devices hold eight times the caches; a batch axis holds at least a request a device."""
    config = replace(wide.config.transformer, num_layers=100)
    num_slots = CACHE_BYTES // (2 * 2 * 2 * 100 * 64 * 4)  # two guided requests fill one device
    assert batch_limit(config, num_slots, 2) == 2
    assert batch_limit(config, num_slots, 2, layout_of("tensor=8")) == 16
    assert batch_limit(config, 128, 1, layout_of("data=8")) == 8 * MAX_BATCH
    assert batch_limit(config, 2**30, 2, layout_of("data=8")) == 8


@pytest.fixture(scope="module")
def compiled(wide) -> tuple[Setup, str]:
    """The run of a row of codes of the wide model, compiled for eight devices."""
    setup = build(wide.config.transformer, layout_of("tensor=8"), 128)
    setup = setup._replace(codes=(4, 64))
    return setup, str(measure(PROGRAMS["draw_run"], setup).text)


def test_two_all_reduces_a_layer_and_two_small_gathers_a_pass(compiled) -> None:
    setup, text = compiled
    passes = 2  # the first code's, and the loop's
    counts = collectives(text)
    assert counts == {
        "all-reduce": 2 * setup.config.num_layers * passes,
        "all-gather": 2 * passes,  # of the embedded tokens' width, and of the codes' logits
    }


def test_no_gather_is_larger_than_the_logits_of_a_window(compiled) -> None:
    """Never a table: of two rows, two tokens and 64 codes in float32 at most."""
    gathers = [line for line in large_copies(compiled[1], 2 * 2 * 64 * 4 + 1) if "gather" in line]
    assert gathers == []


def test_weights_have_an_order_in_memory_on_tpus_alone(wide) -> None:
    layout = layout_of("tensor=8")
    formats = weight_formats(wide.config.transformer, layout)
    assert formats == weight_shardings(wide.config.transformer, layout)
