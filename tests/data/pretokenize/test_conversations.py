"""Examples as records: the words around the images, the task, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.pretokenize.conversations import Words, record_of
from lumina_jax.data.pretokenize.examples import Example, Where
from lumina_jax.unirep.image_tokens import image_sentence

WHERE = Where("a.jsonl", 3)
CODES = [np.arange(8).reshape(2, 4), np.arange(16).reshape(4, 4)]  # 32x16 px, 32x32 px


@pytest.fixture
def words(small_lumina) -> Words:
    return Words(small_lumina.config, small_lumina.tokenizer, "corpus", 0, 0.0, None)


def talk(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]


@pytest.mark.parametrize(
    ("turns", "codes", "task", "size"),
    [
        (talk("hi", "yes"), [], "chat", (0, 0)),
        (talk("what is it? <|image|>", "a dome"), CODES[:1], "other", (32, 16)),
        (talk("Depth estimation. <|image|>", "<|image|>"), CODES, "depth", (32, 32)),
        (talk("look", "a dome"), CODES, "other", (32, 32)),  # images open the first turn
    ],
)
def test_the_task_is_that_of_the_first_turn(words, turns, codes, task, size):
    example = Example(WHERE, turns=turns, id="x")
    record = record_of(words, 7, 0, example, codes)
    assert (record.task, record.size) == (task, size)
    assert (record.source, record.index, record.id) == ("corpus", 7, "x")
    for one in codes:
        ids = image_sentence(one, words.tokenizer.vocab, words.model.grid).astype(np.uint16)
        assert ids.tobytes() in record.tokens.tobytes()


def test_a_caption_says_the_size_except_in_chameleon_s_layout(words):
    example = Example(WHERE, captions=("a red circle",))
    tokens = record_of(words, 0, 0, example, CODES[:1]).tokens
    text = words.tokenizer.decode(
        tokens[1 : list(tokens).index(words.tokenizer.vocab.sep_id)].tolist()
    )
    assert text == "Generate an image of 32x16 according to the following prompt:\na red circle"
    square = words._replace(model=replace(words.model, image_layout="chameleon"))
    record = record_of(square, 0, 0, example, CODES[1:])
    vocab = words.tokenizer.vocab
    caption = words.tokenizer.encode("a red circle")
    assert record.tokens[: len(caption) + 2].tolist() == [vocab.bos_id, *caption, vocab.sep_id]
    assert len(record.tokens) == len(caption) + 2 + 18 + 1


def test_a_long_record_is_refused_and_never_cut(words):
    example = Example(WHERE, turns=talk("hi", "<|image|>"))
    record = record_of(words, 0, 0, example, CODES[1:])
    count = len(record.tokens)
    assert (
        len(record_of(words._replace(max_tokens=count), 0, 0, example, CODES[1:]).tokens) == count
    )
    with pytest.raises(ValueError, match=f"{count} tokens, at most {count - 1} are kept"):
        record_of(words._replace(max_tokens=count - 1), 0, 0, example, CODES[1:])
