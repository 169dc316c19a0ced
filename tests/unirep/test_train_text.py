"""The trained sentencepiece model: where its ids lie, what becomes one token, that it repeats."""

import pytest

from lumina_jax.unirep.train_text import train_sentencepiece


def test_special_ids_follow_the_release(small_tokenizer):
    vocab = small_tokenizer.vocab
    assert (vocab.bos_id, vocab.pad_id, vocab.eos_id, vocab.first_code_id) == (0, 1, 2, 4)
    assert (vocab.num_codes, vocab.num_sizes) == (64, 17)
    after_codes = (
        vocab.image_end_id,
        vocab.image_start_id,
        vocab.sep_id,
        vocab.line_end_id,
        vocab.first_size_id,
    )
    assert after_codes == (68, 69, 70, 71, 72)


@pytest.mark.parametrize(
    "text",
    ["\n", "Generate an image of ", " according to the following prompt:\n", "Depth estimation. "],
)
def test_phrases_are_single_tokens(small_tokenizer, text):
    assert len(small_tokenizer.encode(text)) == 1


def test_common_words_and_their_space_are_single_tokens(small_tokenizer):
    assert len(small_tokenizer.encode("a large purple square")) == 4


def test_a_size_is_three_tokens(small_tokenizer):
    assert [small_tokenizer.decode([i]) for i in small_tokenizer.encode("160x96")] == [
        "160",
        "x",
        "96",
    ]


def test_the_same_texts_give_the_same_file(tmp_path):
    texts = [f"a {word} thing" for word in ("big", "small", "green", "blue")] * 3
    first, second = (
        train_sentencepiece(texts, tmp_path / n, 8, 5, 420) for n in ("1.model", "2.model")
    )
    assert first.fingerprint == second.fingerprint


def test_a_newline_stays_apart_from_its_neighbours(tmp_path):
    tokenizer = train_sentencepiece(["one.\n\ntwo.\n"] * 20, tmp_path / "t.model", 8, 5, 420)
    newline = tokenizer.encode("\n")
    assert tokenizer.encode(".\n\n") == [*tokenizer.encode("."), *newline, *newline]


def test_too_small_a_vocabulary_and_no_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match="vocab_size 100: .* need"):
        train_sentencepiece(["a"], tmp_path / "t.model", 64, 17, 100)
    with pytest.raises(ValueError, match="no text"):
        train_sentencepiece([], tmp_path / "t.model", 64, 17, 700)
