"""Ids are read off the tokenizer's names, and wrong tables are refused."""

import numpy as np
import pytest

from lumina_jax.unirep.vocab import Vocab, code_name, size_name, special_names


def names_of(num_codes: int = 12, num_sizes: int = 5) -> dict[str, int]:
    """A minimal name table in the order of this project's sentencepiece models."""
    names = ["<s>", "<pad>", "</s>", "<unk>", *special_names(num_codes, num_sizes), "a", "b"]
    return {name: index for index, name in enumerate(names)}


def test_released_ids_are_those_of_the_published_tokenizer(golden_tokenizer):
    vocab = golden_tokenizer.vocab
    assert (vocab.bos_id, vocab.pad_id, vocab.eos_id, vocab.sep_id) == (0, 1, 2, 8710)
    assert (vocab.image_start_id, vocab.image_end_id, vocab.line_end_id) == (8197, 8196, 8803)
    assert (vocab.first_code_id, vocab.num_codes, vocab.first_size_id) == (4, 8192, 8804)
    assert [vocab.size_id(px // 32) for px in (512, 768, 1024, 2048)] == [8820, 8828, 8836, 8868]


def test_vocab_equals_the_table_it_was_made_from():
    vocab = Vocab.from_names(names_of(12, 5))
    assert (vocab.size, vocab.num_codes, vocab.num_sizes) == (27, 12, 5)
    assert vocab.code_id(11) == names_of()[code_name(11)]
    assert vocab.size_id(4) == names_of()[size_name(4)]


def test_code_names_spell_decimal_digits():
    assert [code_name(i) for i in (0, 9, 10, 8191)] == [
        "IMGIMGAZ",
        "IMGIMGJZ",
        "IMGIMGBAZ",
        "IMGIMGIBJBZ",
    ]


def test_is_code_and_is_size_hold_exactly_on_their_ranges():
    vocab = Vocab.from_names(names_of(12, 5))
    ids = np.arange(vocab.size)
    assert np.flatnonzero(vocab.is_code(ids)).tolist() == list(range(4, 16))
    assert np.flatnonzero(vocab.is_size(ids)).tolist() == list(range(20, 25))
    assert vocab.is_code(4) and not vocab.is_code(16)


def test_special_names_are_those_of_the_table_and_words_have_none():
    names = names_of(12, 5)
    vocab = Vocab.from_names(names)
    found = {name for index in range(vocab.size + 1) if (name := vocab.special_name(index))}
    assert found == set(names) - {"<unk>", "a", "b"}
    assert all(vocab.special_name(names[name]) == name for name in found)


def test_a_larger_model_vocabulary_is_kept_and_a_smaller_refused():
    assert Vocab.from_names(names_of(), size=100).size == 100
    with pytest.raises(ValueError, match="smaller than its tokenizer's 27"):
        Vocab.from_names(names_of(), size=26)


def test_a_missing_name_is_named():
    names = names_of()
    del names["<eoss>"]
    with pytest.raises(ValueError, match="lacks <eoss>"):
        Vocab.from_names(names)


def test_codes_with_a_gap_are_refused():
    names = names_of()
    names[code_name(3)], names["a"] = names["a"], names[code_name(3)]
    with pytest.raises(ValueError, match="IMGIMGDZ has id 25, want 7"):
        Vocab.from_names(names)


@pytest.mark.parametrize(
    "call", [lambda v: v.code_id(12), lambda v: v.code_id(-1), lambda v: v.size_id(5)]
)
def test_indices_outside_the_tables_are_refused(call):
    with pytest.raises(ValueError, match="want 0 …"):
        call(Vocab.from_names(names_of(12, 5)))
