"""Conversations equal the original's ids and labels; wrong records are answered in one line."""

import re

import numpy as np
import pytest

from lumina_jax.unirep.conversation import conversation_ids, conversation_pieces, prompt_ids
from lumina_jax.unirep.tasks import TASKS
from lumina_jax.unirep.vocab import special_names


def record_of(*values: str, image=None) -> dict:
    """A record whose turns alternate, human first."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    return {"conversations": turns} if image is None else {"conversations": turns, "image": image}


def test_ids_and_labels_equal_the_original(golden, golden_tokenizer):
    ids, labels = conversation_ids(golden.conversation, golden_tokenizer, golden.image_ids)
    assert np.array_equal(ids, golden["conv_ids"])
    assert np.array_equal(labels, golden["conv_labels"])
    assert ids.dtype == labels.dtype == np.int32


def test_prompt_ids_equal_the_original(golden, golden_tokenizer):
    assert np.array_equal(prompt_ids(golden.prompt, golden_tokenizer), golden["prompt_ids"])


def test_prompt_with_an_image_equals_the_start_of_its_conversation(golden, golden_tokenizer):
    ids = prompt_ids(
        "Depth estimation. <|image|>", golden_tokenizer, "img_wide.png", golden.image_ids
    )
    assert np.array_equal(ids, golden["conv_ids"][: len(ids)])
    assert ids[-1] == golden_tokenizer.vocab.sep_id


def test_pieces_joined_are_the_ids(golden, golden_tokenizer):
    pieces = conversation_pieces(golden.conversation, golden_tokenizer, golden.image_ids)
    joined = [token for piece in pieces for token in piece.ids]
    assert joined == golden["conv_ids"].tolist()
    assert [piece.predicted for piece in pieces] == [False] * 4 + [True] * 2 + [False] * 2 + [
        True
    ] * 2


def test_images_without_a_placeholder_open_the_first_turn(golden, golden_tokenizer):
    bare = record_of("Same?", "Yes", image=["img_wide.png", "img_rgba.png"])
    placed = record_of("<|image|> <|image|> Same?", "Yes", image=["img_wide.png", "img_rgba.png"])
    first, second = (
        conversation_ids(r, golden_tokenizer, golden.image_ids)[0] for r in (bare, placed)
    )
    assert np.array_equal(first, second)
    assert first[1] == golden_tokenizer.vocab.image_start_id


def test_images_take_their_places_in_order(golden, golden_tokenizer):
    record = record_of(
        "<|image|> or <|image|>",
        "<|image|>",
        image=["img_rgba.png", "img_wide.png", "img_square.png"],
    )
    pieces = conversation_pieces(record, golden_tokenizer, golden.image_ids)
    images = [list(p.ids) for p in pieces if p.ids[0] == golden_tokenizer.vocab.image_start_id]
    assert images == [golden[f"tok_{kind}"].tolist() for kind in ("rgba", "wide", "square")]


def test_one_image_may_stand_without_a_list(golden, golden_tokenizer):
    lists, single = (
        conversation_ids(record_of("<|image|>", image=i), golden_tokenizer, golden.image_ids)[0]
        for i in (["img_wide.png"], "img_wide.png")
    )
    assert np.array_equal(lists, single)


def test_assistant_is_another_name_for_gpt(golden_tokenizer):
    record = record_of("Hi", "Yes")
    other = {"conversations": [record["conversations"][0], {"from": "assistant", "value": "Yes"}]}
    labels = [conversation_ids(r, golden_tokenizer)[1] for r in (record, other)]
    assert np.array_equal(*labels)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, '"conversations" must be a list'),
        ({"conversations": []}, "at least one turn"),
        ({"conversations": "Hi"}, "must be a list"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "turn 0: from 'gpt', want 'human'"),
        ({"conversations": [{"from": "human"}]}, "turn 0: want .*speaker"),
        (
            {"conversations": [{"from": "human", "value": "a"}] * 2},
            "turn 1: from 'human', want 'gpt' or 'assistant'",
        ),
        (record_of("<|image|>", "b"), "1 <.image.> in the turns, 0 images"),
        (record_of("<|image|>", "b", image=["x", "y"]), "1 <.image.> in the turns, 2 images"),
    ],
)
def test_a_wrong_record_is_one_clear_line(golden_tokenizer, record, message):
    with pytest.raises(ValueError, match=message) as caught:
        conversation_ids(record, golden_tokenizer, lambda image: [8197, 5, 8196])
    assert "\n" not in str(caught.value)


SPECIAL_NAMES = (
    "<s>",
    "<pad>",
    "</s>",
    *special_names(0, 3),
)  # codes are no words of the released file


@pytest.mark.parametrize("name", SPECIAL_NAMES)
def test_text_that_spells_a_special_token_is_refused(golden_tokenizer, name):
    text = f"before{name} after"
    spelled = f"the text spells the special token {name} (id {golden_tokenizer.names[name]})"
    with pytest.raises(ValueError, match=re.escape(f"turn 0: {spelled}")) as caught:
        prompt_ids(text, golden_tokenizer)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(f"turn 1: {spelled}")):
        conversation_ids(record_of("a", text), golden_tokenizer)


def test_text_that_spells_special_tokens_is_plain_text_to_sentencepiece(small_tokenizer):
    text = " ".join(SPECIAL_NAMES)
    assert small_tokenizer.decode(prompt_ids(text, small_tokenizer)) == text


@pytest.mark.parametrize("task", TASKS)
def test_no_template_spells_a_special_token(golden_tokenizer, small_tokenizer, task):
    fields = dict.fromkeys(TASKS[task].fields, 96)
    text = TASKS[task].prompt(**fields).replace("<|image|>", "")
    for tokenizer in (golden_tokenizer, small_tokenizer):
        assert tokenizer.decode(prompt_ids(text, tokenizer)) == text


def test_images_need_an_encoder_that_gives_whole_sentences(golden_tokenizer):
    with pytest.raises(ValueError, match="pass encode_image"):
        prompt_ids("<|image|>", golden_tokenizer, ["x"])
    with pytest.raises(ValueError, match="do not run from start to end"):
        prompt_ids("<|image|>", golden_tokenizer, ["x"], lambda image: [8197, 5, 5])


def test_an_empty_prompt_is_refused(golden_tokenizer):
    with pytest.raises(ValueError, match="empty prompt"):
        prompt_ids("  \n", golden_tokenizer)
