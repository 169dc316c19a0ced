"""Both kinds of tokenizer: equality with the original, round trips, and what text cannot say."""

import pytest

from lumina_jax.unirep.text import TextTokenizer, load_tokenizer

TEXTS = (
    "Generate an image of 160x96 according to the following prompt:\na large red circle, please.",
    "  leading, trailing and  double spaces  ",
    "line\n\nbreaks\r\nand\ttabs\n",
    "Ünïcode 日本 😀",
    "Detect: the red star ",
    " ",
    "",
)


def test_released_prompt_ids_equal_the_original(golden, golden_tokenizer):
    vocab = golden_tokenizer.vocab
    ids = [vocab.bos_id, *golden_tokenizer.encode(golden.prompt), vocab.sep_id]
    assert ids == golden["prompt_ids"].tolist()


@pytest.mark.parametrize("text", TEXTS)
def test_text_round_trips_through_the_released_tokenizer(golden_tokenizer, text):
    assert golden_tokenizer.decode(golden_tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_text_round_trips_through_sentencepiece(small_tokenizer, text):
    assert small_tokenizer.decode(small_tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_encoding_a_decoded_text_gives_the_same_ids(small_tokenizer, text):
    ids = small_tokenizer.encode(text)
    assert small_tokenizer.encode(small_tokenizer.decode(ids)) == ids


def test_no_text_makes_a_special_token_of_sentencepiece(small_tokenizer):
    text = "<s></s><pad><unk> IMGIMGAZ <eoss><racm3:break><reserved08706><reserved08799><reserved08804>"
    first_text_id = small_tokenizer.vocab.size_id(small_tokenizer.vocab.num_sizes - 1) + 1
    assert min(small_tokenizer.encode(text)) >= first_text_id
    assert small_tokenizer.decode(small_tokenizer.encode(text)) == text


def test_names_inside_a_text_become_special_tokens_of_the_released_tokenizer(golden_tokenizer):
    assert golden_tokenizer.encode("<racm3:break>") == [golden_tokenizer.vocab.image_start_id]


@pytest.mark.parametrize("which", ["golden_tokenizer", "small_tokenizer"])
def test_decode_leaves_out_special_and_nameless_ids(request, which):
    tokenizer = request.getfixturevalue(which)
    vocab = tokenizer.vocab
    specials = [
        vocab.bos_id,
        3,
        vocab.first_code_id,
        vocab.image_start_id,
        vocab.image_end_id,
        vocab.sep_id,
    ]
    ids = [
        *specials,
        vocab.size_id(3),
        *tokenizer.encode("a red star"),
        vocab.sep_id,
        vocab.size + 7,
    ]
    assert tokenizer.decode(ids) == "a red star"


@pytest.mark.parametrize("which", ["golden_tokenizer", "small_tokenizer"])
def test_a_saved_tokenizer_is_found_in_its_folder_and_equals_the_first(request, which, tmp_path):
    tokenizer = request.getfixturevalue(which)
    tokenizer.save(tmp_path / "new")
    loaded = load_tokenizer(tmp_path / "new")
    assert isinstance(loaded, TextTokenizer)
    assert (loaded.fingerprint, loaded.vocab) == (tokenizer.fingerprint, tokenizer.vocab)
    assert len(loaded.fingerprint) == 16


@pytest.mark.parametrize("name", ["tokenizer.model", "text_tokenizer.json"])
def test_a_broken_file_is_one_clear_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a tokenizer")
    with pytest.raises(ValueError, match=f"{name}: not a"):
        load_tokenizer(tmp_path)


def test_missing_and_unknown_files_are_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds neither"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "absent.model")
    (tmp_path / "tokenizer.txt").write_text("")
    with pytest.raises(ValueError, match=r"\.json or \.model"):
        load_tokenizer(tmp_path / "tokenizer.txt")
