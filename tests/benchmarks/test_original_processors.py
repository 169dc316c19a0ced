"""The original's logits processors in PyTorch: against transformers' warpers, our own rules, and what it wrote."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lumina_jax.checkpoint import load_model
from lumina_jax.config import GridConfig, SampleConfig
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.original import allowed_range
from lumina_jax.unirep.grid import forced_ids

pytestmark = pytest.mark.torch

GREEDY = SampleConfig(image_top_k=1, text_top_k=1)
SIZE = (96, 64)  # of the golden image


def tensor(ids):
    import torch

    return torch.tensor(np.asarray(ids))[None]


def image_prefixes(vocab) -> list[list[int]]:
    """[bos, separator] and an image of 2 x 4 codes, cut after every token."""
    sentence = forced_ids(1, 2, vocab, GridConfig())
    ids = [0, vocab.sep_id, *np.where(sentence < 0, vocab.first_code_id, sentence).tolist()]
    return [ids[:end] for end in range(2, len(ids) + 1)]


def test_top_k_equals_transformers_in_text_and_images(small_tokenizer) -> None:
    torch = pytest.importorskip("torch")
    from transformers import TopKLogitsWarper

    from benchmarks.peers.original_processors import StatusAwareTopK

    vocab = small_tokenizer.vocab
    ours = StatusAwareTopK(image_top_k=20, text_top_k=3, vocab=vocab)
    scores = torch.randn(1, vocab.size, generator=torch.Generator().manual_seed(0))
    scores[0, :40] = 1.0  # equals at the k-th place are all kept
    text, image = tensor([0, 5]), tensor([0, 5, vocab.image_start_id])
    assert torch.equal(ours(text, scores), TopKLogitsWarper(3)(text, scores))
    assert torch.equal(ours(image, scores), TopKLogitsWarper(20)(image, scores))


def test_grammar_allows_what_our_rules_allow(small_tokenizer) -> None:
    torch = pytest.importorskip("torch")

    from benchmarks.peers.original_processors import ImageGrammar

    vocab, grid = small_tokenizer.vocab, GridConfig()
    grammar, scores = ImageGrammar(vocab, grid), torch.ones(1, vocab.size)
    for prefix in image_prefixes(vocab):
        allowed = grammar(tensor(prefix), scores)[0] > -torch.inf
        is_open = vocab.image_start_id in prefix and prefix[-1] != vocab.image_end_id
        low, high = allowed_range(prefix[3:], vocab, grid) if is_open else (0, vocab.size)
        assert allowed.nonzero()[:, 0].tolist() == list(range(low, high)), prefix


def test_guidance_reads_the_image_alone_token_by_token(small_tokenizer) -> None:
    """From the third token of an image on, and with nothing but the new token once its cache is filled."""
    torch = pytest.importorskip("torch")

    from benchmarks.peers.original_processors import UnbatchedGuidance

    vocab, seen = small_tokenizer.vocab, []

    def model(ids, attention_mask, **_):
        seen.append(ids[0].tolist())
        assert attention_mask.shape[1] == sum(map(len, seen))
        return SimpleNamespace(logits=torch.full((1, ids.shape[1], vocab.size), 2.0))

    guidance, scores = UnbatchedGuidance(model, 4.0, vocab), torch.ones(1, vocab.size)
    prefixes = image_prefixes(vocab)
    for prefix in prefixes:
        guided = guidance(tensor(prefix), scores)
        is_guided = len(prefix) >= 5 and prefix[-1] != vocab.image_end_id
        assert guided.unique().tolist() == [-2.0 if is_guided else 1.0]
    image = prefixes[-1][2:]
    assert seen == [image[:3], *([token] for token in image[3:-1])]


@pytest.fixture(scope="module")
def painter_of(golden_checkpoint):
    """`painter_of(settings)`: the golden transformer in PyTorch."""
    import jax

    from benchmarks.peers.torch_chameleon import Painter

    loaded = load_model(golden_checkpoint)
    params = jax.tree.map(lambda leaf: leaf.astype("float32"), loaded.params)
    return lambda settings: Painter(loaded._replace(params=params), settings)


@pytest.mark.parametrize("guidance", [1, 4])
@pytest.mark.parametrize("way", ["as_original", "both_rows"])
def test_pytorch_paints_greedily_what_the_original_wrote(
    golden, painter_of, way: str, guidance: int
) -> None:
    painter = painter_of(replace(GREEDY, guidance=guidance))
    (ids,) = getattr(painter, way)([Request(golden["prompt_ids"], *SIZE)])
    assert len(ids) == 4 * 7 - 1  # 4 lines of 6 codes, the last line end left out
    np.testing.assert_array_equal(ids, golden[f"gen_cfg{guidance}"][: len(ids)])


def test_logits_equal_the_originals(golden, painter_of) -> None:
    import torch

    ids = torch.from_numpy(golden["logits_ids"].astype(np.int64))
    with torch.inference_mode():
        logits = painter_of(GREEDY).peer(ids).logits[:, [0, 9, 18, 27, 36]]
    np.testing.assert_allclose(logits.numpy(), golden["logits"], rtol=0, atol=1e-4)


def test_largest_difference_is_that_of_the_logits(golden, painter_of) -> None:
    """What the benchmark asks before it compares times."""
    painter, ids = painter_of(GREEDY), golden["logits_ids"][:1, :4]
    zeros = np.zeros((*ids.shape, golden["logits"].shape[-1]), np.float32)
    largest = painter.largest_difference(zeros, ids)
    assert largest >= np.abs(golden["logits"][0, 0]).max() - 1e-4
