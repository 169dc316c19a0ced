"""The scenes' tokenizer: reproducible, every name one token, captions short."""

import re

import numpy as np
import pytest

from lumina_jax.checkpoint import ASSETS
from lumina_jax.data.scenes.captions import caption, plural
from lumina_jax.data.scenes.scene import BACKGROUNDS, COLOURS, SHAPES, sample_scene
from lumina_jax.data.scenes.text_model import TextModelConfig, all_texts, phrases, train_text_model
from lumina_jax.unirep.tasks import text_to_image
from lumina_jax.unirep.text import load_tokenizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text_model")
    return train_text_model(TextModelConfig(folder, num_codes=64, num_scenes=150))


@pytest.fixture(scope="module", params=["trained", "shipped"])
def tokenizer(request):
    if request.param == "trained":
        return request.getfixturevalue("trained")
    return load_tokenizer(ASSETS / "scenes")


@pytest.mark.parametrize("name", [*COLOURS, *SHAPES, *map(plural, SHAPES), *BACKGROUNDS])
def test_every_name_is_one_token(tokenizer, name):
    assert len(tokenizer.encode(name)) == len(tokenizer.encode(f" {name}")) == 1


def test_captions_take_about_a_token_a_word_or_less(tokenizer):
    rng = np.random.default_rng(9)
    told = [caption(sample_scene(rng, 128, 128), rng) for _ in range(300)]
    lengths = [len(tokenizer.encode(text)) for text in told]
    assert all(n <= len(re.findall(r"\w+|,", text)) for n, text in zip(lengths, told, strict=True))
    assert np.mean(lengths) < 8


def test_template_takes_four_tokens(tokenizer):
    prompt = text_to_image(160, 96, "a dome")
    assert len(tokenizer.encode(prompt)) - len(tokenizer.encode("a dome")) == 4


def test_texts_round_trip(tokenizer):
    for text in [
        *all_texts(3, 20)[:200],
        *phrases(),
        "Grüße, 日本 🙂",
        text_to_image(1, 2, "x\ny"),
    ]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_same_options_write_the_same_file(trained, tmp_path):
    again = train_text_model(TextModelConfig(tmp_path, num_codes=64, num_scenes=150))
    assert again.fingerprint == trained.fingerprint


def test_corpus_names_what_is_reserved_and_every_kind_of_text():
    corpus = "\n".join(all_texts(0, 150))
    for word in ("gems", "arches", "white", "Generate an image of 128x128", "Detect: ", "How many"):
        assert word in corpus
    for word in ("Remove", "yes", "no"):
        assert re.search(rf"\b{word}\b", corpus)
