"""Conversations: the turns one by one equal the whole history at once, and what was said stays as it is."""

import copy

import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.chat import Chat, answer_history, task_settings, turn_seed, turn_settings
from lumina_jax.config import SampleConfig, TaskSampling
from lumina_jax.token_model import TokenModel
from lumina_jax.unirep.conversation import conversation_ids, prompt_ids
from lumina_jax.unirep.image_tokens import find_images, image_sentence
from lumina_jax.unirep.tasks import TASKS, find_task, task_prompt, text_to_image

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
    whole = answer_history(model, history, "text", seed=turn_seed(5, 2), max_tokens=12)
    assert answered.seed == turn_seed(5, 2)
    np.testing.assert_array_equal(whole.ids, answered.ids)
    separator = model.tokenizer.vocab.sep_id
    # The edit, from the history up to its turn.
    record = {"conversations": turns[:3], "image": [drawn.ids]}
    before, _ = conversation_ids(record, model.tokenizer, np.asarray)
    np.testing.assert_array_equal(
        answer_history(model, before, "image", size, seed=6).ids, edited.ids
    )
    record = {"conversations": turns[:1], "image": []}
    start, _ = conversation_ids(record, model.tokenizer, np.asarray)
    np.testing.assert_array_equal(answer_history(model, start, "image", size, 5).ids, drawn.ids)
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
        lambda: chat.send("Depth estimation.", np.zeros((16, 32, 3), np.uint8), want="image"),
    ):
        with pytest.raises(ValueError, match="nothing is drawn"):
            call()
    asked, named, drawn, mapped = seen
    assert (asked.text_top_k, asked.guidance, asked.image_top_k) == (3, 1.0, 2000)
    assert (mapped.text_top_k, mapped.guidance, mapped.image_top_k) == (3, 1.0, 200)
    assert (named.text_top_k, named.guidance) == (2, 1.5)
    assert (drawn.guidance, drawn.image_top_k) == (SampleConfig().guidance, 2000)


def test_a_turns_settings_end_the_chats_and_none_ends_nothing(small_lumina, monkeypatch) -> None:
    seen = []

    def spy(model, requests, *rest, **options):
        seen.append(requests[0].settings)
        raise ValueError("nothing is drawn")

    monkeypatch.setattr("lumina_jax.chat.write_answers", spy)
    chat = small_lumina.chat(guidance_schedule=(4.0, 2.0), image_top_k=70)
    for named in ({"guidance": 3.0}, {"guidance": None, "image_top_k": None}):
        with pytest.raises(ValueError, match="nothing is drawn"):
            chat.send("What?", **named)
    one, both = seen
    assert (one.guidance, one.guidance_schedule, one.image_top_k) == (3.0, (), 70)
    assert (both.guidance_schedule, both.image_top_k) == ((4.0, 2.0), 70)


def test_what_is_asked_twice_is_drawn_from_two_seeds(small_lumina) -> None:
    chat = small_lumina.chat(seed=5)
    first, second = (chat.send("Hi", want="text", max_tokens=2) for _ in range(2))
    assert (first.seed, second.seed) == (5, turn_seed(5, 1))
    assert len({turn_seed(seed, turn) for seed in (5, 6) for turn in range(50)}) == 100


@pytest.mark.parametrize("task", [name for name in TASKS if name != "question"])
def test_history_tells_the_task_of_its_last_turn(small_lumina, golden_tokenizer, task) -> None:
    """In both spellings, whatever came before."""
    row = TASKS[task]
    for tokenizer in (small_lumina.tokenizer, golden_tokenizer):
        model = copy.copy(small_lumina)
        model.tokenizer, grid = tokenizer, small_lumina.config.grid
        sentence = image_sentence(np.zeros((2, 4), int), tokenizer.vocab, grid)
        values = dict.fromkeys(row.fields, "3")
        said = prompt_ids(
            task_prompt(task, tokenizer, **values),
            tokenizer,
            [sentence] * row.num_images,
            np.asarray,
        )
        history = prompt_ids("Depth estimation.", tokenizer)
        known = find_task(row.prompt(**values)) or "chat"
        wanted = task_settings(TASKS[known], model.settings)
        assert turn_settings(model, said) == wanted
        assert turn_settings(model, np.concatenate([history, said[1:]])) == wanted
        assert (known == task) == (task not in ("edit", "next_edit"))
        if known != task:  # words that are no task's own change the image before them
            edit = task_settings(TASKS["edit"], model.settings)
            shown = prompt_ids("Here <|image|>", tokenizer, [sentence], np.asarray)
            after = np.concatenate([shown, said[1:]])
            assert turn_settings(model, after, "image") == edit
            assert turn_settings(model, after, "text") == wanted != edit


def test_what_a_checkpoint_says_of_a_task_stands_above_its_row() -> None:
    rows = TaskSampling("depth", image_top_k=1), TaskSampling("multi_view", guidance=1.5)
    own = SampleConfig(guidance=3.0)
    depth, views = (task_settings(TASKS[name], own, rows) for name in ("depth", "multi_view"))
    assert (depth.image_top_k, depth.guidance) == (1, TASKS["depth"].guidance)
    assert (views.image_top_k, views.guidance) == (own.image_top_k, 1.5)
    assert task_settings(TASKS["normals"], own, rows) == task_settings(TASKS["normals"], own)


def test_settings_of_tasks_are_those_of_answers_alone(small_lumina) -> None:
    rows = (TaskSampling("depth", image_top_k=1),)
    parts = small_lumina.config, small_lumina.params, small_lumina.vqgan_params
    model = Lumina(*parts, small_lumina.tokenizer, SampleConfig(image_top_k=9, by_task=rows))
    assert (model.by_task, model.settings) == (rows, SampleConfig(image_top_k=9))
    depth = model.depth(np.array(_depth(model)[_image(model)]), size=(32, 16))
    assert depth.settings.image_top_k == turn_settings(model, _depth(model)).image_top_k == 1
    assert model.generate("a dome", size=(32, 32)).settings == SampleConfig(image_top_k=9)


def _image(model: Lumina) -> slice:
    return slice(*find_images(_depth(model), model.tokenizer.vocab)[0])


def _depth(model: Lumina) -> np.ndarray:
    sentence = image_sentence(np.zeros((2, 4), int), model.tokenizer.vocab, model.config.grid)
    return prompt_ids("Depth estimation. <|image|>", model.tokenizer, [sentence], np.asarray)


@pytest.mark.parametrize(
    "row, words",
    [
        ({"task": "depths"}, "unknown task of the settings 'depths'.*did you mean 'depth'"),
        ({"task": "text_to_image", "guidance": 2.0}, "paints from words has the model's own"),
        ({"task": "depth", "image_top_k": 0}, "image_top_k 0: top-k must be at least 1"),
        ({"task": "depth", "guidance": -1.0}, "guidance -1.0: want a finite number"),
    ],
)
def test_settings_of_tasks_are_checked(small_lumina, row, words) -> None:
    model = small_lumina
    with pytest.raises(ValueError, match=words):
        settings = SampleConfig(by_task=(TaskSampling(**row),))
        TokenModel(model.config, model.params, model.vqgan_params, model.tokenizer, settings)
