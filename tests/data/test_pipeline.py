"""Batches: a pure function of (config, step), for any start, any number of hosts and of threads."""

import grain
import numpy as np
import pytest

from lumina_jax.config import GridConfig
from lumina_jax.data import stepwise
from lumina_jax.data.pipeline import (
    drops_context,
    rows_of_records,
    token_batches,
    without_context,
)
from lumina_jax.data.records import Record, make_record, pack_record
from lumina_jax.data.stepwise import Rows
from lumina_jax.experiment import Stage
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.unirep.conversation import conversation_ids
from lumina_jax.unirep.grid import image_token_count
from lumina_jax.unirep.image_tokens import image_sentence

STAGES = (
    Stage(4, 4, 0.1, (("a", 0.75), ("b", 0.25)), max_tokens=6),
    Stage(3, 2, 0.1, (("b", 1.0),), max_tokens=8),
)


def packed(source: str, count: int) -> list[bytes]:
    """Records of 3 to 5 tokens; the first token is the index, the second tells the source."""
    made = []
    for index in range(count):
        tokens = np.array([index, ord(source), *range(1 + index % 3)])
        made.append(pack_record(make_record(tokens, tokens, source=source, index=index)))
    return made


SOURCES = {"a": packed("a", 20), "b": packed("b", 7)}


def batches(small_tokenizer, start: int = 0, rows: Rows = Rows(), seed: int = 0) -> list[dict]:
    curriculum = Curriculum(STAGES)
    vocab = small_tokenizer.vocab
    return list(token_batches(SOURCES, curriculum, seed, vocab, 0.0, start, rows))


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_starting_at_a_step_gives_the_same_rest(small_tokenizer):
    whole = batches(small_tokenizer)
    assert len(whole) == 7
    for start in (1, 4, 6, 7):
        assert_same(batches(small_tokenizer, start), whole[start:])


def test_hosts_share_each_batch_out(small_tokenizer):
    whole = batches(small_tokenizer)
    parts = [batches(small_tokenizer, rows=Rows((index,), 2)) for index in range(2)]
    joined = [
        {name: np.concatenate([one[name], other[name]]) for name in one}
        for one, other in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


def test_threads_do_not_change_the_order(small_tokenizer, monkeypatch):
    whole = batches(small_tokenizer)
    monkeypatch.setattr(stepwise, "READ", grain.ReadOptions(1, 1))
    assert_same(batches(small_tokenizer), whole)


def test_another_seed_is_another_order(small_tokenizer):
    one, other = batches(small_tokenizer), batches(small_tokenizer, seed=1)
    assert any((a["tokens"] != b["tokens"]).any() for a, b in zip(one, other, strict=True))


def test_stages_have_their_shape_and_mixture(small_tokenizer):
    whole = batches(small_tokenizer)
    assert [batch["tokens"].shape for batch in whole] == [(4, 6)] * 4 + [(2, 8)] * 3
    names = np.concatenate([batch["tokens"][:, 1] for batch in whole[:4]])
    assert (names == ord("a")).sum() == 12
    assert all((batch["tokens"][:, 1] == ord("b")).all() for batch in whole[4:])


def test_an_epoch_shows_every_record_once(small_tokenizer):
    stages = Curriculum((Stage(10, 4, 0.1, (("a", 1.0),), max_tokens=6),))
    found = token_batches(SOURCES, stages, 0, small_tokenizer.vocab, 0.0)
    seen = np.concatenate([batch["tokens"][:, 0] for batch in found])
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert seen[:20].tolist() != seen[20:].tolist() != list(range(20))


def test_unknown_source_lists_the_choices(small_tokenizer):
    stages = Curriculum((Stage(1, 1, 0.1, (("aa", 1.0),)),))
    with pytest.raises(ValueError, match="unknown source of the mixture 'aa'"):
        next(token_batches(SOURCES, stages, 0, small_tokenizer.vocab, 0.0))


def test_batch_that_hosts_cannot_share_is_refused(small_tokenizer):
    with pytest.raises(ValueError, match="batch_size 4 does not divide over 3 parts of the mesh"):
        batches(small_tokenizer, rows=Rows((0,), 3))


def test_padding_is_masked():
    record = make_record(np.array([5, 6, 7]), np.array([-100, 6, 7]), source="a")
    batch = rows_of_records([[record]], 5, pad_id=1)
    assert batch["tokens"].tolist() == [[5, 6, 7, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, -100]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 4]]
    assert all(array.dtype == np.int32 for array in batch.values())


def test_record_that_is_too_long_is_named():
    record = make_record(np.arange(9), np.arange(9), source="scenes", index=42)
    with pytest.raises(ValueError, match="record scenes#42 has 9 tokens.*max_tokens is 8"):
        rows_of_records([[record]], 8, pad_id=1)


def reference_dropout(tokens: list[int], labels: list[int], end: int) -> list[int] | None:
    """The rule as the original's forks state it; None: the record stays."""
    if tokens[-2] == labels[-2] == end and tokens.count(end) == 1:
        return [label for label in labels if label != -100][:-1]
    return None


def conversation(tokenizer, turns: list[str], num_images: int, grid) -> Record:
    codes = np.arange(6).reshape(2, 3)
    ids = image_sentence(codes, tokenizer.vocab, grid)
    said = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]
    record = {"conversations": said, "image": list(range(num_images))}
    return make_record(*conversation_ids(record, tokenizer, lambda _: ids), source="a")


@pytest.mark.parametrize(
    ("turns", "num_images", "drops"),
    [
        (["a red circle", "<|image|>"], 1, True),
        (["Depth estimation. <|image|>", "<|image|>"], 2, False),
        (["What is it? <|image|>", "a circle"], 1, False),
        (["a red circle", "<|image|> there"], 1, False),
        (["Hello", "Hi"], 0, False),
        (["Hello", "Hi", "a red circle", "<|image|>"], 1, True),
    ],
)
def test_context_dropout_is_the_forks_rule(small_tokenizer, turns, num_images, drops):
    grid, vocab = GridConfig(16, 16), small_tokenizer.vocab
    record = conversation(small_tokenizer, turns, num_images, grid)
    tokens, labels = record.tokens.tolist(), record.labels().tolist()
    wanted = reference_dropout(tokens, labels, vocab.image_end_id)
    found = without_context(record, vocab)
    assert (wanted is not None) == drops
    if wanted is None:
        assert found is record
        return
    assert found.tokens.tolist() == wanted and found.labels().tolist() == wanted
    if len(turns) == 2:
        assert len(wanted) == image_token_count(48, 32, grid)
        assert (wanted[0], wanted[-1]) == (vocab.image_start_id, vocab.image_end_id)


def test_plain_image_without_its_context_is_what_the_unguided_pass_reads(small_tokenizer):
    """[bos, start] given, then codes and end predicted: these images have no other first tokens."""
    vocab, grid = small_tokenizer.vocab, GridConfig(patch_px=8, unit_px=16)
    sentence = image_sentence(np.zeros((4, 6), int), vocab, grid, "plain")
    record = {"conversations": [{"from": "human", "value": "a red star"}], "image": [0]}
    record["conversations"].append({"from": "gpt", "value": "<|image|>"})
    ids, labels = conversation_ids(record, small_tokenizer, lambda _: sentence)
    found = without_context(make_record(ids, labels), vocab, "plain")
    assert found.tokens.tolist() == [vocab.bos_id, *sentence]
    assert found.labels().tolist() == [-100, -100, *sentence[1:]]


def test_context_dropout_is_a_function_of_the_position():
    def draws(seed: int, count: int = 1) -> np.ndarray:
        found = [drops_context(0.25, (seed, 0, place), count) for place in range(2000)]
        return np.stack(found)

    assert (draws(0) == draws(0)).all() and (draws(0) != draws(1)).any()
    several = draws(0, 3)
    assert (several[:, :1] == draws(0)).all()  # a row of one record is drawn as before
    assert ((several.mean(axis=0) > 0.2) & (several.mean(axis=0) < 0.3)).all()
    assert (several[:, 0] != several[:, 1]).any()
    assert not drops_context(0.0, (0, 0, 0)).any() and drops_context(1.0, (0, 0, 0)).all()


def test_context_dropout_reaches_the_batches(small_tokenizer):
    record = conversation(small_tokenizer, ["a red circle", "<|image|>"], 1, GridConfig(16, 16))
    stages = Curriculum((Stage(4, 8, 0.1, (("a", 1.0),), max_tokens=64),))
    sources = {"a": [pack_record(record)] * 3}
    found = list(token_batches(sources, stages, 0, small_tokenizer.vocab, 0.5))
    first = np.concatenate([batch["tokens"][:, 0] for batch in found])
    vocab = small_tokenizer.vocab
    assert set(first.tolist()) == {vocab.bos_id, vocab.image_start_id}
    alone = next(b["labels"][row] for b in found for row in range(8) if b["tokens"][row, 0] > 0)
    assert alone[0] == vocab.image_start_id
