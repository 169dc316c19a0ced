"""The protocol's examples with their true answers, as the conversations that a model is trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lumina_jax.evals.answering import encoded
from lumina_jax.evals.example import Example, Images
from lumina_jax.evals.protocol import KINDS, examples
from lumina_jax.lumina import Lumina
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER, conversation_ids
from lumina_jax.unirep.text import TextTokenizer


def some_examples(task: str, count: int) -> list[Example]:
    """The first `count` scored examples of a task; those of its kinds come in turn."""
    return examples(task, -(-count // KINDS.get(task, 1)))[:count]


def record_of(example: Example, images: Sequence[Any]) -> dict[str, Any]:
    """The conversation with its true answers; `images` stand for those of `images_of`, one for one."""
    said = []
    for turn in example.turns:
        told = turn.answer if isinstance(turn.answer, str) else _placeholders(turn.answer)
        said += [{"from": "human", "value": turn.said}, {"from": "gpt", "value": told}]
    return {"conversations": said, "image": list(images)}


def images_of(example: Example) -> list[np.ndarray]:
    """Its pictures in order, those shown and those of the true answers."""
    found: list[np.ndarray] = []
    for turn in example.turns:
        found += [*turn.shown, *(() if isinstance(turn.answer, str) else turn.answer)]
    return found


def true_sentences(
    model: Lumina, examples: Sequence[Example]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, labels) of every conversation, int32, not shifted, -100 where nothing is predicted."""
    sentences = encoded(model, [image for each in examples for image in images_of(each)])
    found = []
    for example in examples:
        own = [next(sentences) for _ in images_of(example)]
        found.append(conversation_ids(record_of(example, own), model.tokenizer, lambda ids: ids))
    return found


def text_and_images(example: Example, tokenizer: TextTokenizer) -> tuple[int, int]:
    """How many tokens a conversation has beside those of its images, and how many images."""
    vocab, count = tokenizer.vocab, len(images_of(example))
    stand_in = [vocab.image_start_id, vocab.first_code_id, vocab.image_end_id]
    ids, _ = conversation_ids(record_of(example, [stand_in] * count), tokenizer, lambda ids: ids)
    return len(ids) - len(stand_in) * count, count


def _placeholders(answer: Images) -> str:
    return IMAGE_PLACEHOLDER * len(answer)
