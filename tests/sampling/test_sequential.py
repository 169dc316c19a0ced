"""The cached decoder against full recomputation, and how often it compiles."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.config import SampleConfig
from lumina_jax.sampling import sequential
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import generate
from lumina_jax.sampling.grammar import plan_image
from lumina_jax.sampling.policy import draw, make_policy
from lumina_jax.sampling.sequential import MAX_PADDING, padded_length
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.grid import FREE
from lumina_jax.unirep.image_tokens import image_sentence, parse_image

GREEDY = SampleConfig(guidance=2.5, image_top_k=1)
THREE_STREAMS = SampleConfig(guidance=3.0, image_guidance=1.5, image_top_k=1)
NUCLEUS = SampleConfig(guidance=1.5, image_guidance=1.2, image_top_k=30, image_top_p=0.8)
DRAWN = SampleConfig(guidance=1.5, temperature=0.8, image_top_k=30)


def requests_of(lumina, prompts: list[str], size: tuple[int, int]) -> list[Request]:
    return [Request(prompt_ids(text, lumina.tokenizer), *size, seed=3) for text in prompts]


def recomputed_ids(lumina, request: Request, ids: np.ndarray, settings: SampleConfig) -> np.ndarray:
    """What would be drawn in the places after the lead, from one full forward a stream without any cache."""
    vocab = lumina.tokenizer.vocab
    plan = plan_image(request.width_px, request.height_px, lumina.config, vocab, request.given)
    codes = slice(vocab.first_code_id, vocab.first_code_id + vocab.num_codes)
    places = np.arange(len(plan.lead), len(ids), dtype=np.int32)

    def logits(before: np.ndarray) -> np.ndarray:
        whole = np.concatenate([before, ids[len(plan.lead) :]])
        padded = np.pad(whole, (0, 96 - len(whole)))  # one length compiles once; unseen by the rest
        return lumina.logits(padded[None])[0, len(before) - 1 :][: len(places), codes]

    full = logits(np.concatenate([request.prompt_ids, plan.lead]))
    none = logits(np.array(plan.unprompted))
    if request.negative_ids is not None:
        none = logits(np.concatenate([request.negative_ids, plan.lead]))
    if settings.guidance_schedule:
        first, last = settings.guidance_schedule
        rows = first + (last - first) * np.arange(plan.shape[0]) / (plan.shape[0] - 1)
        row_indices = (places - plan.runs[0][0]) // plan.stride
        scales = np.append(rows, last)[row_indices].astype(np.float32)[:, None]
        guided = none + scales * (full - none)
    elif settings.image_guidance is None:
        guided = none + settings.guidance * (full - none)
    else:
        asked = request.prompt_ids.tolist()  # holds one image or none
        pictures: list[int] = []
        if vocab.image_end_id in asked:
            place = asked.index(vocab.image_start_id), asked.index(vocab.image_end_id) + 1
            pictures = asked[slice(*place)]
        images = logits(np.array([vocab.bos_id, *pictures, *plan.lead]))
        guided = none + settings.image_guidance * (images - none)
        guided = guided + settings.guidance * (full - images)
    one_a_place = [make_policy([settings], [request.seed])] * len(places)
    policies = jax.tree.map(lambda *leaves: np.stack(leaves), *one_a_place)
    drawn = jax.vmap(draw)(guided[:, None], policies, places)
    return np.asarray(drawn)[:, 0] + vocab.first_code_id


@pytest.mark.parametrize("settings", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_sampling_with_cache_equals_full_recomputation(small_lumina, settings) -> None:
    prompts = ["a red star", "a large purple circle, please. It is purple.", "a star"]
    requests = requests_of(small_lumina, prompts, (48, 32))
    results = generate(small_lumina.loaded, requests, settings)
    for request, result in zip(requests, results, strict=True):
        wanted = recomputed_ids(small_lumina, request, result.ids, settings)
        written = result.ids[-len(wanted) :]
        free = small_lumina.tokenizer.vocab.is_code(written)
        np.testing.assert_array_equal(written[free], wanted[free])
        assert free.sum() == 6 * 4


SCHEDULED = replace(DRAWN, guidance_schedule=(4.0, 0.5), image_min_p=0.2)
UPPER = np.where(np.arange(24) < 12, np.arange(24), FREE).reshape(4, 6)  # two rows of four
CUT_ROW = np.where(np.arange(24) < 15, np.arange(24), FREE).reshape(4, 6)
HOLES = np.where(np.arange(24) % 5 < 2, FREE, np.arange(24)).reshape(4, 6)
LOWER = np.where(np.arange(24) < 9, FREE, np.arange(24)).reshape(4, 6)
CONTROLS = {
    "schedule, min-p, negative prompt": (SCHEDULED, None, "a small green circle"),
    "negative prompt": (DRAWN, None, "a small green circle"),
    "upper rows": (DRAWN, UPPER, None),
    "part of a row": (DRAWN, CUT_ROW, "a large square"),
    "holes": (DRAWN, HOLES, None),
    "lower rows": (DRAWN, LOWER, None),
}


@pytest.mark.parametrize("decoder", ["sequential", "jacobi"])
@pytest.mark.parametrize("case", CONTROLS)
def test_controlled_sampling_equals_full_recomputation(small_lumina, case, decoder) -> None:
    settings, given, negative = CONTROLS[case]
    settings, vocab = replace(settings, decoder=decoder), small_lumina.tokenizer.vocab
    ids = None if negative is None else prompt_ids(negative, small_lumina.tokenizer)
    requests = [
        replace(request, given=given, negative_ids=ids)
        for request in requests_of(small_lumina, ["a red star", "a star, please."], (48, 32))
    ]
    results = generate(small_lumina.loaded, requests, settings)
    for request, result in zip(requests, results, strict=True):
        wanted = recomputed_ids(small_lumina, request, result.ids, settings)
        free = np.full((4, 6), True) if given is None else given == FREE
        drawn = np.zeros((4, 6), np.int32)
        places = vocab.is_code(result.ids[-len(wanted) :])
        drawn.ravel()[-places.sum() :] = wanted[places] - vocab.first_code_id
        np.testing.assert_array_equal(result.codes[free], drawn[free])
        if given is not None:
            np.testing.assert_array_equal(result.codes[~free], given[~free])
        codes = parse_image(result.ids, vocab, small_lumina.config.grid)
        np.testing.assert_array_equal(codes, result.codes)


@pytest.mark.parametrize(
    ("layout", "settings"),
    [("uni_rep", THREE_STREAMS), ("chameleon", THREE_STREAMS), ("chameleon", NUCLEUS)],
    ids=["uni_rep, greedy", "chameleon, greedy", "chameleon, nucleus"],
)
def test_three_streams_equal_three_full_forwards(small_lumina, layout: str, settings) -> None:
    config = replace(small_lumina.config, image_layout=layout, target_px=32)
    parts = small_lumina.params, small_lumina.vqgan_params, small_lumina.tokenizer
    lumina, vocab = Lumina(config, *parts), small_lumina.tokenizer.vocab
    picture = image_sentence(np.arange(16).reshape(4, 4), vocab, config.grid, layout)
    prompt = prompt_ids("red <|image|> star", lumina.tokenizer, [0], lambda _: picture)
    requests = [Request(prompt, 32, 32, seed=seed) for seed in (1, 2)]
    requests.append(Request(prompt_ids("a red star", lumina.tokenizer), 32, 32))
    for request, result in zip(requests, generate(lumina.loaded, requests, settings), strict=True):
        wanted = recomputed_ids(lumina, request, result.ids, settings)
        written = result.ids[-len(wanted) :]
        free = vocab.is_code(written)
        np.testing.assert_array_equal(written[free], wanted[free])
        assert free.sum() == 4 * 4


def test_sizes_and_settings_share_one_program(small_lumina) -> None:
    sizes = [(48, 32), (32, 48), (16, 64), (64, 48)]
    requests = [requests_of(small_lumina, ["a red star"], size)[0] for size in sizes]
    generate(small_lumina.loaded, requests, GREEDY)
    compiled = sequential.draw_run._cache_size(), sequential.fill_cache._cache_size()
    other = SampleConfig(guidance=3.0, temperature=0.5, image_top_k=7)
    generate(small_lumina.loaded, requests[1:] + requests[:1], other)
    assert (sequential.draw_run._cache_size(), sequential.fill_cache._cache_size()) == compiled


def test_padded_length_has_few_values() -> None:
    assert [padded_length(n) for n in (0, 1, 32, 33, 200, 257, 512)] == [
        32,
        32,
        32,
        64,
        256,
        512,
        512,
    ]
    assert all(n <= padded_length(n) <= n + MAX_PADDING for n in range(2000))
    assert len({padded_length(n) for n in range(2000)}) < 12
