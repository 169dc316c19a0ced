"""The original's own rules, against what the original wrote, and the exact grammar against the same."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lumina_jax.checkpoint import LoadedModel, load_model
from lumina_jax.config import GridConfig, SampleConfig
from lumina_jax.sampling import original
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import generate
from lumina_jax.sampling.original import allowed_range, any_id, continue_ids, first_image
from lumina_jax.unirep.image_tokens import image_sentence

GREEDY = SampleConfig(image_top_k=1, text_top_k=1)
SIZE = (96, 64)  # of the golden image
GUIDANCES = [4, pytest.param(1, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def golden_model(golden_checkpoint) -> LoadedModel:
    """The golden transformer in float32."""
    loaded = load_model(golden_checkpoint)
    return loaded._replace(params=jax.tree.map(lambda leaf: leaf.astype("float32"), loaded.params))


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_exact_grammar_equals_the_original_through_the_end_of_the_image(
    golden, golden_model, guidance: int
) -> None:
    request = Request(golden["prompt_ids"], *SIZE)
    (result,) = generate(golden_model, [request], replace(GREEDY, guidance=guidance))
    vocab = golden_model.tokenizer.vocab
    assert result.ids[:3].tolist() == [vocab.image_start_id, vocab.size_id(2), vocab.size_id(3)]
    written = golden[f"gen_cfg{guidance}"]
    end = written.tolist().index(vocab.image_end_id) + 1
    np.testing.assert_array_equal(result.ids[3:], written[:end])


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_original_grammar_equals_the_original_token_for_token(
    golden, golden_model, guidance: int
) -> None:
    vocab = golden_model.tokenizer.vocab
    lead = [vocab.image_start_id, vocab.size_id(2), vocab.size_id(3)]
    settings = replace(GREEDY, guidance=guidance, grammar="original")
    prompt = np.concatenate([golden["prompt_ids"], lead])
    (result,) = generate(golden_model, [Request(prompt, *SIZE, num_tokens=60)], settings)
    np.testing.assert_array_equal(result.ids, golden[f"gen_cfg{guidance}"])


def test_continuation_stops_after_the_separator(small_lumina) -> None:
    model, prompt = small_lumina.loaded, [0, 250, 251]
    settings = SampleConfig(text_top_k=40)
    free = continue_ids(model, prompt, settings, num_tokens=8)
    assert len(free) == 8
    vocab = replace(model.tokenizer.vocab, sep_id=int(free[3]))  # what was written is now its name
    renamed = model._replace(tokenizer=SimpleNamespace(vocab=vocab))
    stopped = continue_ids(renamed, prompt, settings)
    first = free.tolist().index(vocab.sep_id)
    np.testing.assert_array_equal(stopped, free[: first + 1])


def test_height_and_width_are_drawn_without_guidance(small_lumina) -> None:
    prompt = [0, 250, 251, small_lumina.tokenizer.vocab.image_start_id]
    plain, guided = (
        continue_ids(small_lumina.loaded, prompt, replace(GREEDY, guidance=scale), num_tokens=4)
        for scale in (1, 30)
    )
    assert plain[:2].tolist() == guided[:2].tolist()
    assert plain[2:].tolist() != guided[2:].tolist()


@pytest.mark.parametrize("num_tokens", [0, 398])
def test_continuation_without_room_is_refused(small_lumina, num_tokens: int) -> None:
    with pytest.raises(ValueError, match="want at least 1, and 400 together"):
        continue_ids(small_lumina.loaded, [0, 5, 6], SampleConfig(), num_tokens=num_tokens)


def test_allowed_range_follows_the_layout(golden_tokenizer) -> None:
    vocab, grid = golden_tokenizer.vocab, GridConfig()
    whole, codes = (0, vocab.size), (vocab.first_code_id, vocab.first_code_id + vocab.num_codes)
    size = [vocab.size_id(1), vocab.size_id(2)]  # 2 rows of 4 codes
    line = [5, 5, 5, 5, vocab.line_end_id]
    assert allowed_range([], vocab, grid) == whole
    assert allowed_range(size[:1], vocab, grid) == whole
    assert allowed_range(size, vocab, grid) == codes
    assert allowed_range(size + line[:3], vocab, grid) == codes
    assert allowed_range(size + line[:4], vocab, grid) == (8803, 8804)
    assert allowed_range(size + line, vocab, grid) == codes
    assert allowed_range(size + line * 2, vocab, grid) == (8196, 8197)
    no_columns = [vocab.size_id(1), vocab.size_id(0)]  # line ends without end, as in the original
    assert allowed_range([*no_columns, 8803, 8803], vocab, grid) == (8803, 8804)


def test_without_a_grammar_every_id_may_stand_where_the_layout_forces_one(
    small_lumina, monkeypatch
) -> None:
    vocab, grid, asked = small_lumina.tokenizer.vocab, small_lumina.config.grid, []

    def draw(logits, unprompted, policy, place) -> list[int]:
        asked.append(place.tolist()[1:])
        return [vocab.sep_id]

    monkeypatch.setattr(original, "_draw_in", draw)
    monkeypatch.setattr(original.Stream, "logits", lambda stream: None)
    line = image_sentence(np.zeros((2, 4), int), vocab, grid)[:7]  # start, sizes, 4 codes
    prompt = [vocab.bos_id, *line.tolist()]
    model, settings = small_lumina.loaded, SampleConfig()
    assert continue_ids(model, prompt, settings, num_tokens=1).tolist() == [vocab.line_end_id]
    assert asked == []
    written = continue_ids(model, prompt, settings, num_tokens=1, rule=any_id)
    assert written.tolist() == [vocab.sep_id] and asked == [[0, vocab.size]]


def test_first_image_passes_over_unreadable_ones(small_lumina) -> None:
    vocab, model = small_lumina.tokenizer.vocab, small_lumina.loaded
    codes = np.arange(8).reshape(2, 4)
    good = image_sentence(codes, vocab, small_lumina.config.grid)
    bad = np.array([vocab.image_start_id, 9, vocab.image_end_id])
    np.testing.assert_array_equal(first_image(np.concatenate([[9], bad, good]), model), codes)
    assert first_image(bad, model) is None
