"""Texts after contexts: what may be drawn, when a row ends, and that neighbours change nothing."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from lumina_jax.config import SampleConfig
from lumina_jax.sampling.text import RUN_TOKENS, TextJob, _text_mask, draw_texts, write_texts
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.image_tokens import image_sentence

SETTINGS = SampleConfig(text_top_k=40)


@pytest.fixture(scope="module")
def contexts(small_lumina) -> list[np.ndarray]:
    """Three contexts of different lengths, one with an image in it."""
    tokenizer, grid = small_lumina.tokenizer, small_lumina.config.grid
    codes = np.arange(12).reshape(2, 6) % 64
    sentence = image_sentence(codes, tokenizer.vocab, grid)
    return [
        prompt_ids("What colour?", tokenizer),
        prompt_ids("Describe the image in detail. <|image|>", tokenizer, ["x"], lambda _: sentence),
        prompt_ids("a small green circle, please. It is green.", tokenizer),
    ]


def stepwise(model, context: np.ndarray, count: int) -> list[int]:
    """The greedy answer without any cache: every token from a forward pass over all before it."""
    vocab, ids = model.tokenizer.vocab, list(context)
    for _ in range(count):
        logits = model.logits(np.array([ids + [0] * (64 - len(ids))]))[0, len(ids) - 1]
        every = np.arange(len(logits))
        kept = vocab.is_text(every) | (every == vocab.sep_id)
        ids.append(int(np.where(kept, logits, -np.inf).argmax()))
        if ids[-1] == vocab.sep_id:
            return ids[len(context) : -1]
    return ids[len(context) :]


def test_greedy_text_equals_passes_without_a_cache(small_lumina, contexts) -> None:
    written = write_texts(small_lumina.loaded, contexts, SampleConfig(text_top_k=1), max_tokens=6)
    for context, ids in zip(contexts, written, strict=True):
        assert ids.tolist() == stepwise(small_lumina, context, 6)


def test_row_of_a_batch_equals_the_same_row_alone(small_lumina, contexts) -> None:
    model, seeds = small_lumina.loaded, [3, 4, 5]
    together = write_texts(model, contexts, SETTINGS, seeds, max_tokens=20)
    assert len({ids.tobytes() for ids in together}) == 3
    for context, seed, ids in zip(contexts, seeds, together, strict=True):
        (alone,) = write_texts(model, [context], SETTINGS, seed, max_tokens=20)
        np.testing.assert_array_equal(alone, ids)


def test_only_text_is_drawn_and_every_row_ends_at_its_separator(small_lumina, contexts) -> None:
    model, vocab = small_lumina.loaded, small_lumina.tokenizer.vocab
    every = SampleConfig(text_top_k=10_000, temperature=100.0)
    limit = RUN_TOKENS + 30
    jobs = [TextJob(context, every, seed, limit) for context in contexts for seed in range(8)]
    drawn = draw_texts(model, jobs)
    assert all(vocab.is_text(ids[:-1]).all() for ids in drawn)
    ended = [ids for ids in drawn if ids[-1] == vocab.sep_id]
    assert all(len(ids) == limit for ids in drawn if ids[-1] != vocab.sep_id)
    assert 0 < len(ended) and max(map(len, drawn)) > RUN_TOKENS


def test_text_ids_are_those_without_a_special_name(small_tokenizer) -> None:
    vocab = small_tokenizer.vocab
    ids = np.arange(-1, vocab.size + 1)
    plain = [0 <= i < vocab.size and vocab.special_name(int(i)) is None for i in ids]
    assert vocab.is_text(ids).tolist() == plain
    assert [vocab.is_text(int(i)) for i in ids] == plain


def test_limits_of_batches_change_nothing(small_lumina, contexts) -> None:
    model = small_lumina.loaded
    jobs = [TextJob(context, SETTINGS, 1, 5) for context in contexts]
    halves, whole = draw_texts(model, jobs, max_batch=2), draw_texts(model, jobs)
    assert [ids.tolist() for ids in halves] == [ids.tolist() for ids in whole]


def test_stretches_of_any_length_change_nothing(small_lumina, contexts, monkeypatch) -> None:
    model, told = small_lumina.loaded, []
    whole = write_texts(model, contexts, SETTINGS, [3, 4, 5], max_tokens=40)
    assert max(map(len, whole)) > 16
    monkeypatch.setattr("lumina_jax.sampling.text.FIRST_TOKENS", 8)
    parted = write_texts(model, contexts, SETTINGS, [3, 4, 5], max_tokens=40, progress=told.append)
    assert [ids.tolist() for ids in parted] == [ids.tolist() for ids in whole]
    assert sum(told) == len(contexts)


def test_short_text_of_a_long_model_takes_a_short_cache(
    small_lumina, contexts, monkeypatch
) -> None:
    model, slots = small_lumina.loaded, []

    def spy(network, rows, shape, num_left):
        slots.append(shape.num_slots)
        raise StopIteration

    monkeypatch.setattr("lumina_jax.sampling.text.read_contexts", spy)
    with pytest.raises(StopIteration):
        write_texts(model._replace(config=replace(model.config, max_tokens=10_240)), contexts)
    assert slots == [384]


def test_nothing_unspoken_is_ever_text(small_lumina, golden_tokenizer) -> None:
    model = small_lumina.loaded
    transformer = replace(model.config.transformer, vocab_size=golden_tokenizer.vocab.size)
    released = model._replace(
        tokenizer=golden_tokenizer, config=replace(model.config, transformer=transformer)
    )
    for each, names in ((released, golden_tokenizer.names), (model, {"<unk>": 3})):
        mask = _text_mask(each)
        odd = [i for name, i in names.items() if re.match("<unk>|<reserved|<sentinel", name)]
        assert [i for i in odd if mask[i]] == [each.tokenizer.vocab.sep_id] * (len(odd) > 1)
        assert mask[each.tokenizer.encode("a red star")].all()


def test_text_ends_where_the_sequence_does(small_lumina, contexts) -> None:
    model = small_lumina.loaded
    room = 7
    short = replace(model.config, max_tokens=len(contexts[1]) + room)
    tight = model._replace(config=short)
    (ids,) = write_texts(tight, [contexts[1]], SETTINGS, seeds=5)
    assert len(ids) == room
    with pytest.raises(ValueError, match="answers in what is left"):
        write_texts(tight, [np.concatenate([contexts[1], contexts[1]])])


def test_progress_counts_every_row_once(small_lumina, contexts) -> None:
    told: list[int] = []
    write_texts(small_lumina.loaded, contexts, SETTINGS, max_tokens=4, progress=told.append)
    assert sum(told) == len(contexts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": -1}, "seed -1: want 0 to"),
        ({"seeds": [1]}, "1 seeds for 3 contexts"),
        ({"max_tokens": 0}, "max_tokens 0"),
    ],
)
def test_wrong_input_is_one_clear_line(small_lumina, contexts, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        write_texts(small_lumina.loaded, contexts, **options)


def test_no_context_gives_no_text(small_lumina) -> None:
    assert write_texts(small_lumina.loaded, []) == []


@pytest.mark.slow
def test_sharded_model_writes_the_same(small_lumina, contexts) -> None:
    from lumina_jax.experiment import MeshConfig
    from lumina_jax.lumina import Lumina
    from lumina_jax.sharding import make_layout

    layout = make_layout(MeshConfig.parse("data=2,tensor=2"), jax.local_devices()[:4])
    parts = small_lumina.config, small_lumina.params, small_lumina.vqgan_params
    sharded = Lumina(*parts, small_lumina.tokenizer, layout=layout)
    whole, split = (
        write_texts(model.loaded, contexts, SampleConfig(text_top_k=1), max_tokens=8)
        for model in (small_lumina, sharded)
    )
    assert [ids.tolist() for ids in whole] == [ids.tolist() for ids in split]
