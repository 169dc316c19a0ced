"""Conversations as ids and labels (Lumina-mGPT's item processor): turns that end in a separator, no role words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina_jax.unirep.text import TextTokenizer

IMAGE_PLACEHOLDER = "<|image|>"
NOT_PREDICTED = -100
HUMAN_NAMES = ("human",)
ASSISTANT_NAMES = ("gpt", "assistant")

Record = Mapping[str, Any]
EncodeImage = Callable[[Any], Sequence[int] | np.ndarray]


@dataclass(frozen=True)
class Piece:
    """A run of ids, and whether the model learns to predict them."""

    ids: tuple[int, ...]
    predicted: bool


def conversation_pieces(
    record: Record, tokenizer: TextTokenizer, encode_image: EncodeImage | None = None
) -> list[Piece]:
    """A record as pieces: the start token, then per turn its texts and images in order, then a separator.

    record = {"conversations": [{"from": "human", "value": "Depth estimation. <|image|>"},
                                {"from": "gpt", "value": "<|image|>"}], "image": ["photo.png", "depth.png"]}

    Turns alternate and start with "human"; "gpt" and "assistant" are the model, whose turns are predicted, their
    images and separator included. "image" is one reference or a list, read by `encode_image` into the ids of an
    image sentence, in the order of the placeholders. Without any placeholder the images open the first turn. A record
    may end with a human turn: its ids are then the prompt of the answer.

    Raises ValueError for another order of turns, for an image count that differs from the placeholders', and for a
    text that spells special tokens, which the released tokenizer would read as such (the original lets it).
    """
    turns, images = _validate(record)
    encoded = iter([_checked_image(image, tokenizer, encode_image) for image in images])
    pieces = [Piece((tokenizer.vocab.bos_id,), predicted=False)]
    for index, (value, predicted) in enumerate(turns):
        parts = [_checked_text(text, tokenizer, index) for text in value.split(IMAGE_PLACEHOLDER)]
        for part_index, text_ids in enumerate(parts):
            if part_index > 0:
                pieces.append(Piece(next(encoded), predicted))
            if text_ids:
                pieces.append(Piece(text_ids, predicted))
        pieces.append(Piece((tokenizer.vocab.sep_id,), predicted))
    return pieces


def conversation_ids(
    record: Record, tokenizer: TextTokenizer, encode_image: EncodeImage | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`conversation_pieces` as (ids, labels), both int32 [S], not shifted; label -100 is not predicted.

    "Hi" answered by "Yes", with the released ids: ids [0, Hi, 8710, Yes, 8710], labels [-100, -100, -100, Yes, 8710].
    """
    pieces = conversation_pieces(record, tokenizer, encode_image)
    ids = np.concatenate([np.asarray(piece.ids, np.int32) for piece in pieces])
    predicted = np.concatenate([np.full(len(piece.ids), piece.predicted) for piece in pieces])
    return ids, np.where(predicted, ids, NOT_PREDICTED).astype(np.int32)


def prompt_ids(
    text: str,
    tokenizer: TextTokenizer,
    images: Any = (),
    encode_image: EncodeImage | None = None,
) -> np.ndarray:
    """The int32 ids of one human turn, [start, text and images …, separator]: what an answer continues.

    Raises ValueError for an empty prompt, and as `conversation_pieces`.
    """
    record = {"conversations": [{"from": HUMAN_NAMES[0], "value": text}], "image": images}
    if not _images_of(record) and not text.strip():
        raise ValueError("empty prompt: say what to do")
    return conversation_ids(record, tokenizer, encode_image)[0]


def _validate(record: Record) -> tuple[list[tuple[str, bool]], list[Any]]:
    """The turns as (text, predicted) with every image placed, and the images; ValueError when they do not fit."""
    turns = record.get("conversations")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise ValueError('record: "conversations" must be a list with at least one turn')
    checked = [_checked_turn(turn, index) for index, turn in enumerate(turns)]
    images = _images_of(record)
    count = sum(value.count(IMAGE_PLACEHOLDER) for value, _ in checked)
    if count == 0 and images:
        first, predicted = checked[0]
        checked[0] = (f"{IMAGE_PLACEHOLDER} " * len(images) + first, predicted)
    elif count != len(images):
        raise ValueError(f"record: {count} {IMAGE_PLACEHOLDER} in the turns, {len(images)} images")
    return checked, images


def _checked_turn(turn: Any, index: int) -> tuple[str, bool]:
    """(text, predicted) of turn number `index`; ValueError unless it is well formed and its speaker's."""
    if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
        raise ValueError(
            f'turn {index}: want {{"from": speaker, "value": text}}, got {str(turn)[:60]}'
        )
    names = ASSISTANT_NAMES if index % 2 else HUMAN_NAMES
    if turn.get("from") not in names:
        wanted = " or ".join(map(repr, names))
        raise ValueError(
            f"turn {index}: from {turn.get('from')!r}, want {wanted}: turns alternate, human first"
        )
    return turn["value"], bool(index % 2)


def _images_of(record: Record) -> list[Any]:
    """The record's images as a list; one reference that is not in a list stands for itself."""
    images = record.get("image")
    if images is None:
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]


def _checked_image(
    image: Any, tokenizer: TextTokenizer, encode_image: EncodeImage | None
) -> tuple[int, ...]:
    """The ids of an image; ValueError unless they run from start to end token."""
    if encode_image is None:
        raise ValueError("record holds images: pass encode_image")
    ids = tuple(int(i) for i in encode_image(image))
    vocab = tokenizer.vocab
    if len(ids) < 3 or (ids[0], ids[-1]) != (vocab.image_start_id, vocab.image_end_id):
        wanted = f"{vocab.image_start_id} … {vocab.image_end_id}"
        raise ValueError(
            f"encode_image gave {len(ids)} ids that do not run from start to end token ({wanted})"
        )
    return ids


def _checked_text(text: str, tokenizer: TextTokenizer, index: int) -> tuple[int, ...]:
    """The ids of a text; ValueError when it spells a token that only the format may bring."""
    ids = tuple(tokenizer.encode(text))
    for token_id in ids:
        if name := tokenizer.vocab.special_name(token_id):
            raise ValueError(
                f"turn {index}: the text spells the special token {name} (id {token_id}): take it out, or put "
                f"a space into it; pass pictures as images and write {IMAGE_PLACEHOLDER} in their place"
            )
    return ids
