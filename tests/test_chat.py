"""Conversations: the turns one by one equal the whole history at once, and what was said stays as it is."""

import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.chat import Chat, answer_history, task_settings
from lumina_jax.config import SampleConfig
from lumina_jax.unirep.conversation import conversation_ids
from lumina_jax.unirep.tasks import TASKS, text_to_image

SIZE = (32, 16)


def three_turns(model: Lumina, size: tuple[int, int]) -> Chat:
    """Draw, edit, ask."""
    chat = model.chat(seed=5)
    chat.draw("a red star", size)
    chat.send("make it green", want="image", seed=6)
    chat.send("What colour is the star?", want="text", max_tokens=12)
    return chat


def check_equals_one_call_with_the_whole_history(model: Lumina, size: tuple[int, int]) -> None:
    chat = three_turns(model, size)
    drawn, edited, answered = (reply for _, reply in chat.turns)
    said = [
        text_to_image(*size, "a red star"),
        "<|image|>",
        "make it green",
        "<|image|>",
        "What colour is the star?",
    ]
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]
    record = {"conversations": turns, "image": [drawn.ids, edited.ids]}
    history, _ = conversation_ids(record, model.tokenizer, np.asarray)
    settings = task_settings(TASKS["chat"], model.settings)
    whole = answer_history(model, history, "text", seed=5, settings=settings, max_tokens=12)
    np.testing.assert_array_equal(whole.ids, answered.ids)
    separator = model.tokenizer.vocab.sep_id
    np.testing.assert_array_equal(chat.ids, [*history, *whole.ids, separator])
    assert whole.text == answered.text
    for kept, reply in zip(chat.images, (drawn, edited), strict=True):
        np.testing.assert_array_equal(kept, reply.images[0].ids)
    assert edited.images[0].size == size


def test_three_turns_equal_one_call_with_the_whole_history(small_lumina) -> None:
    check_equals_one_call_with_the_whole_history(small_lumina, SIZE)


@pytest.mark.slow
def test_three_turns_of_the_shipped_model_equal_one_call() -> None:
    check_equals_one_call_with_the_whole_history(Lumina.load("scenes"), (96, 64))


def test_a_shown_image_is_encoded_once_and_kept(small_lumina, monkeypatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    sentence, calls = small_lumina.encode_image(pixels, 32), []
    monkeypatch.setattr(
        small_lumina, "encode_image", lambda picture: calls.append(picture) or sentence
    )
    chat = small_lumina.chat(text_top_k=1)
    chat.send("What?", pixels, want="text", max_tokens=3)
    chat.send("And now?", want="text", max_tokens=3)
    assert len(calls) == 1
    np.testing.assert_array_equal(chat.images[0], sentence)


def test_a_turn_that_fails_leaves_the_conversation_as_it_was(small_lumina) -> None:
    chat = small_lumina.chat()
    chat.send("Hi", want="text", max_tokens=2)
    before = chat.ids.copy()
    for wrong in ({"text": ""}, {"text": "a", "want": "image", "size": (31, 16)}):
        with pytest.raises(ValueError):
            chat.send(**wrong)
    np.testing.assert_array_equal(chat.ids, before)
    with pytest.raises(ValueError, match="setting"):
        small_lumina.chat(guidence=2.0)


def test_settings_are_the_callers_then_the_chats_then_the_tasks(small_lumina, monkeypatch) -> None:
    seen = []

    def spy(model, requests, *rest, **options):
        seen.append(requests[0].settings)
        raise ValueError("nothing is drawn")

    monkeypatch.setattr("lumina_jax.chat.write_answers", spy)
    chat = small_lumina.chat(text_top_k=3)
    for call in (
        lambda: chat.send("What?"),
        lambda: chat.send("What?", text_top_k=2, guidance=1.5),
        lambda: chat.draw("a star", SIZE),
    ):
        with pytest.raises(ValueError, match="nothing is drawn"):
            call()
    asked, named, drawn = seen
    assert (asked.text_top_k, asked.guidance, asked.image_top_k) == (3, 1.0, 200)
    assert (named.text_top_k, named.guidance) == (2, 1.5)
    assert (drawn.guidance, drawn.image_top_k) == (SampleConfig().guidance, 2000)
