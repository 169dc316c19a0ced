"""The methods of a model: what is asked in which words, that lists change nothing, and that tokens are kept."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lumina_jax import Lumina
from lumina_jax.chat import Reply
from lumina_jax.config import ModelConfig, SampleConfig, VQGANConfig
from lumina_jax.convert.model_config import CONVERSATION_TOKENS
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import generate
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.image_tokens import find_images, image_sentence
from lumina_jax.unirep.tasks import TASKS

SMALL = (32, 16)
MAPS = {"segmentation": "segment", "depth": "depth", "normals": "normals", "pose": "pose"}


@pytest.fixture(scope="module")
def shown(small_lumina) -> np.ndarray:
    """The ids of an image."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    return small_lumina.encode_image(pixels, 32)


@pytest.fixture
def asked(monkeypatch) -> list:
    """The requests that a model was asked, after the error by which nothing of them is drawn."""
    seen: list = []

    class Stop(Exception):
        """Nothing is to be drawn."""

    def spy(model, requests, *rest, **options):
        seen.extend(requests)
        raise Stop

    monkeypatch.setattr("lumina_jax.chat.write_answers", spy)
    seen.append(Stop)
    return seen


def requests_of(asked: list, call) -> list:
    """The requests of a call."""
    with pytest.raises(asked[0]):
        call()
    return asked[1:]


CALLS = {
    **{task: (method, ()) for task, method in MAPS.items()},
    "edit": ("edit", ("make it blue",)),
    "detection": ("detect", ("the red dome",)),
    "image_condition": ("generate_from", ("a red dome",)),
    "describe": ("describe", ()),
}
WORDS = {"edit": "instruction", "detection": "phrase", "image_condition": "caption"}


@pytest.mark.parametrize("task", CALLS)
def test_method_asks_in_the_words_and_with_the_settings_of_its_task(
    small_lumina, shown, asked, task
) -> None:
    method, words = CALLS[task]
    (request,) = requests_of(asked, lambda: getattr(small_lumina, method)(shown, *words, seed=7))
    row = TASKS[task]
    values = dict(zip([WORDS[task]] if words else [], words, strict=True))
    wanted = prompt_ids(row.prompt(**values), small_lumina.tokenizer, [shown], np.asarray)
    np.testing.assert_array_equal(request.context, wanted)
    assert (request.want, request.seed) == (row.answer, 7)
    if row.answer == "image":
        assert request.size == small_lumina.image_size(shown)
    drawn = request.settings
    got = drawn.guidance, drawn.temperature, drawn.image_top_k, drawn.text_top_k
    assert got == (row.guidance, row.temperature, row.image_top_k, row.text_top_k)


def test_callers_settings_and_sizes_come_first(small_lumina, shown, asked) -> None:
    (request,) = requests_of(
        asked, lambda: small_lumina.edit(shown, "a", SMALL, guidance=2.5, image_top_k=9)
    )
    assert (request.size, request.settings.guidance) == (SMALL, 2.5)
    assert (request.settings.image_top_k, request.settings.temperature) == (9, 1.0)


def test_views_take_the_models_own_settings(small_lumina, asked, monkeypatch) -> None:
    own = SampleConfig(guidance=1.7, image_top_k=55)
    monkeypatch.setattr(small_lumina, "settings", own)
    (request,) = requests_of(asked, lambda: small_lumina.views("a dome", SMALL))
    assert (request.settings, request.num_images, request.size) == (own, 4, SMALL)
    text = "Generate 4 object views of 32x16 according to the following prompt: a dome"
    assert request.context.tolist() == prompt_ids(text, small_lumina.tokenizer).tolist()


def test_released_vocabulary_is_asked_as_released(small_lumina, golden_tokenizer) -> None:
    from lumina_jax.unirep.tasks import speaks_released, task_prompt

    released, own = golden_tokenizer, small_lumina.tokenizer
    assert (speaks_released(released), speaks_released(own)) == (True, False)
    assert task_prompt("segmentation", released) == "Segmentic segmentation. <|image|>"
    assert task_prompt("segmentation", own) == "Semantic segmentation. <|image|>"


@pytest.fixture
def released(small_lumina, golden_tokenizer) -> Lumina:
    """A model that is asked as a released 7B of 768 px; nothing can be drawn from it."""
    model = copy.copy(small_lumina)
    model.tokenizer = golden_tokenizer
    model.config = ModelConfig(
        model.config.transformer, VQGANConfig(), max_tokens=CONVERSATION_TOKENS, target_px=768
    )
    return model


def test_methods_of_a_released_model_use_its_words(released, asked) -> None:
    shown = image_sentence(np.zeros((4, 6), int), released.tokenizer.vocab, released.config.grid)
    (request,) = requests_of(asked, lambda: released.segment(shown))
    wanted = prompt_ids(
        "Segmentic segmentation. <|image|>", released.tokenizer, [shown], np.asarray
    )
    assert request.context.tolist() == wanted.tolist() and request.size == (96, 64)


def test_released_models_paint_sixteen_views_of_384_px(released, monkeypatch) -> None:
    """And have room for them: the spy stands where the first image would be drawn."""
    seen: list = []

    def spy(model, requests, **options):
        seen.extend(requests)
        raise StopIteration

    monkeypatch.setattr("lumina_jax.sampling.interleaved.generate", spy)
    with pytest.raises(StopIteration):
        released.views("a chair")
    (request,) = seen
    text = "Generate 16 object views of 384x384 according to the following prompt: a chair"
    assert request.prompt_ids.tolist() == prompt_ids(text, released.tokenizer).tolist()
    assert (request.width_px, request.height_px) == (384, 384)
    assert request.padded_to == len(request.prompt_ids) + 16 * 604


@pytest.mark.parametrize("size", [(768, 768), (1024, 576)])
def test_edit_of_a_released_picture_has_room(released, size, monkeypatch) -> None:
    def spy(model, requests, **options):
        raise StopIteration

    monkeypatch.setattr("lumina_jax.sampling.interleaved.generate", spy)
    codes = np.zeros((size[1] // 16, size[0] // 16), int)
    shown = image_sentence(codes, released.tokenizer.vocab, released.config.grid)
    with pytest.raises(StopIteration):
        released.edit(shown, "make it blue")


def test_a_list_of_seeds_is_answered_by_a_list(small_lumina, shown, monkeypatch) -> None:
    def replies(model, requests, *rest):
        return [Reply(str(each.seed), [], each.context, (), True) for each in requests]

    monkeypatch.setattr("lumina_jax.answering.write_replies", replies)
    model = small_lumina
    assert model.answer("What?", shown, [1, 2, 3]) == ["1", "2", "3"]
    assert model.answer("What?", [shown, shown], [1, 2]) == ["1", "2"]
    assert model.answer(["What?"], shown) == ["0"] and model.answer("What?", shown) == "0"


def test_conversations_keep_tokens(small_lumina, shown) -> None:
    said = [{"from": "human", "value": "What? <|image|>"}, {"from": "gpt", "value": "a"}]
    ids, _ = small_lumina.conversation_ids({"conversations": said, "image": [shown]})
    ((start, stop),) = find_images(ids, small_lumina.tokenizer.vocab)
    assert ids[start:stop].tolist() == shown.tolist()


def test_images_of_questions_stand_with_their_questions(small_lumina, shown, asked) -> None:
    tokenizer = small_lumina.tokenizer

    def context(text: str, count: int) -> list[int]:
        return prompt_ids(text, tokenizer, [shown] * count, np.asarray).tolist()

    requests = requests_of(
        asked,
        lambda: small_lumina.answer(
            ["Same?", "<|image|> or <|image|>?", "Hi"], [shown, [shown, shown], []], [1, 2, 3]
        ),
    )
    assert [request.context.tolist() for request in requests] == [
        context("Same? <|image|>", 1),
        context("<|image|> or <|image|>?", 2),
        context("Hi", 0),
    ]
    assert [request.seed for request in requests] == [1, 2, 3]


def test_edit_equals_generate_after_the_same_words(small_lumina, shown) -> None:
    image = small_lumina.edit(shown, "make it blue", SMALL, seed=3)
    context = prompt_ids("make it blue <|image|>", small_lumina.tokenizer, [shown], np.asarray)
    settings = SampleConfig(guidance=1.0, image_top_k=200)
    (drawn,) = generate(small_lumina.loaded, [Request(context, *SMALL, seed=3)], settings)
    np.testing.assert_array_equal(image.ids, drawn.ids)
    np.testing.assert_array_equal(image.pixels, small_lumina.decode_image(drawn.ids))
    assert image.metadata["task"] == "edit" and image.prompt == "make it blue <|image|>"


@pytest.mark.slow
def test_lists_are_answered_as_each_alone(small_lumina, shown) -> None:
    picture = Image.fromarray(small_lumina.decode_image(shown))
    both = small_lumina.detect([picture, shown], ["a", "b"], SMALL, seed=[1, 2])
    alone = small_lumina.detect(shown, "b", SMALL, seed=2)
    np.testing.assert_array_equal(both[1].ids, alone.ids)
    texts = small_lumina.describe([shown, shown], seed=[1, 2], max_tokens=5)
    assert texts[1] == small_lumina.describe(shown, seed=2, max_tokens=5)
    views = small_lumina.views(["a", "b"], SMALL, views=2)
    assert [len(each) for each in views] == [2, 2]
    assert views[0][1].metadata["view"] == "2 of 2"


def test_a_painted_image_keeps_its_tokens(small_lumina) -> None:
    painted = small_lumina.generate("a", SMALL, guidance=1.0)
    np.testing.assert_array_equal(small_lumina.image_ids(painted), painted.ids)
    np.testing.assert_array_equal(small_lumina.image_ids(painted.ids), painted.ids)
    assert small_lumina.image_size(painted.ids) == SMALL


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, ids: model.depth(ids[:-1]), "image of .* tokens, want"),
        (lambda model, ids: model.depth(np.zeros(3)), "want integers"),
        (lambda model, ids: model.edit(ids, ""), "instruction is empty"),
        (lambda model, ids: model.edit([ids] * 3, ["a", "b"]), "3 images and 2 instructions"),
        (lambda model, ids: model.depth(ids, guidence=2), "setting"),
        (lambda model, ids: model.depth(ids, grammar="original"), "'exact' only"),
        (lambda model, ids: model.answer(" "), "empty question"),
        (lambda model, ids: model.answer("a <|image|>"), "1 <.image.> in the turns, 0 images"),
        (lambda model, ids: model.views("a", (128, 128)), "4 images of 128x128 px: need"),
        (lambda model, ids: model.views("a", (32, 16), views=0), "0 images: want at least 1"),
    ],
)
def test_wrong_calls_are_one_clear_line(small_lumina, shown, call, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call(small_lumina, shown)
    assert "\n" not in str(caught.value)


def test_chameleons_layout_refuses_images_and_answers_questions(small_lumina, asked) -> None:
    config = replace(small_lumina.config, image_layout="chameleon", target_px=32)
    parts = small_lumina.params, small_lumina.vqgan_params, small_lumina.tokenizer
    model = Lumina(config, *parts)
    pixels = np.zeros((32, 32, 3), np.uint8)
    for call in (lambda: model.depth(pixels), lambda: model.views("a")):
        with pytest.raises(ValueError, match="never taught it"):
            call()
    (request,) = requests_of(asked, lambda: model.answer("What?", pixels))
    assert request.want == "text" and len(request.context) > 18
