"""An example whose images are codes as a conversation, and as a record."""

import zlib
from typing import NamedTuple

import numpy as np

from lumina_jax.config import ModelConfig
from lumina_jax.data.pretokenize.examples import Example
from lumina_jax.data.records import Record, make_record
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER, conversation_ids
from lumina_jax.unirep.grid import tells_size
from lumina_jax.unirep.image_tokens import find_images, image_sentence, parse_image
from lumina_jax.unirep.tasks import TASKS, find_task, text_to_image
from lumina_jax.unirep.text import TextTokenizer

Size = tuple[int, int]  # (width, height) px


class Words(NamedTuple):
    """What decides how an example is worded."""

    model: ModelConfig
    tokenizer: TextTokenizer
    source: str  # the name that records carry
    seed: int
    without_size: float  # share of captions whose prompt does not say the size
    max_tokens: int | None


def record_of(
    words: Words, index: int, target: int, example: Example, codes: list[np.ndarray]
) -> Record:
    """The record of an example at its target size number `target`, its images as codes [P,Q].

    Raises ValueError where turns and images do not fit, and for a record longer than `max_tokens`.
    """
    model, vocab = words.model, words.tokenizer.vocab
    patch_px = model.grid.patch_px
    size = (codes[-1].shape[1] * patch_px, codes[-1].shape[0] * patch_px) if codes else (0, 0)
    turns, task = _conversation(words, index, target, example, size)
    numbers = list(range(len(codes)))
    content = {"conversations": turns, "image": numbers}

    def sentence(number: int) -> np.ndarray:
        return image_sentence(codes[number], vocab, model.grid, model.image_layout)

    ids, labels = conversation_ids(content, words.tokenizer, sentence)
    fields = {"task": task, "size": size, "source": words.source, "index": index, "id": example.id}
    return _checked(make_record(ids, labels, **fields), words)


def record_of_ids(words: Words, index: int, example: Example, ids: np.ndarray, labels: np.ndarray):
    """The record of ids that were written by somebody else; ValueError where they are not of this vocabulary."""
    vocab, model = words.tokenizer.vocab, words.model
    if int(ids.max()) >= vocab.size:
        raise ValueError(f"id {ids.max()}: this tokenizer's are below {vocab.size}")
    spans, size, inside = find_images(ids, vocab), (0, 0), np.zeros(len(ids), bool)
    for span in spans:
        inside[slice(*span)] = True
        codes = parse_image(ids[slice(*span)], vocab, model.grid, model.image_layout)
        size = (codes.shape[1] * model.grid.patch_px, codes.shape[0] * model.grid.patch_px)
    stray = np.flatnonzero(vocab.is_code(ids) & ~inside)
    if len(stray):
        raise ValueError(f"token {stray[0]}: an image code outside of any whole image")
    prompt, at = "", 1
    end = int(np.argmax(ids == vocab.sep_id)) if vocab.sep_id in ids else len(ids)
    for start, stop in [*[span for span in spans if span[1] <= end], (end, end)]:
        prompt += words.tokenizer.decode(ids[at:start].tolist())
        prompt += IMAGE_PLACEHOLDER * (stop > start)
        at = stop
    task = _task_of(prompt, bool(spans))
    fields = {"task": task, "size": size, "source": words.source, "index": index, "id": example.id}
    return _checked(make_record(ids, labels, **fields), words)


def _conversation(
    words: Words, index: int, target: int, example: Example, size: Size
) -> tuple[list, str]:
    """(turns, task): those of the example, or a caption of it as the prompt of its image."""
    if not example.captions:
        turns = example.turns
        first = turns[0] if isinstance(turns, list) and turns else None
        prompt = first.get("value") if isinstance(first, dict) else None
        return turns, _task_of(prompt if isinstance(prompt, str) else "", size != (0, 0))
    caption = example.captions[
        _rng(words.seed, index, target, "caption").integers(len(example.captions))
    ]
    layout = words.model.image_layout
    if (
        tells_size(layout)  # else nothing but the prompt does
        and _rng(words.seed, index, target, "size").random() < words.without_size
    ):
        task = "text_to_image_any_size"
        prompt = TASKS[task].prompt(caption=caption)
    else:
        task, prompt = "text_to_image", text_to_image(*size, caption, layout)
    said = (("human", prompt), ("gpt", IMAGE_PLACEHOLDER))
    return [{"from": speaker, "value": text} for speaker, text in said], task


def _task_of(prompt: str, has_images: bool) -> str:
    return find_task(prompt) or ("other" if has_images else "chat")


def _checked(record: Record, words: Words) -> Record:
    count = len(record.tokens)
    if words.max_tokens is not None and count > words.max_tokens:
        raise ValueError(f"{count} tokens, at most {words.max_tokens} are kept (--max-tokens)")
    return record


def _rng(seed: int, index: int, target: int, purpose: str) -> np.random.Generator:
    """The generator of one choice of one record."""
    return np.random.default_rng((seed, index, target, zlib.crc32(purpose.encode())))
