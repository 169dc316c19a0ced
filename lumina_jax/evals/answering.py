"""A model's own answers to the protocol's examples: images painted and words written, turn by turn, in batches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lumina_jax.chat import task_settings
from lumina_jax.config import SampleConfig
from lumina_jax.data.records import encode_images
from lumina_jax.evals.example import Example, Images, Turn
from lumina_jax.lumina import Lumina
from lumina_jax.painting import override
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import generate
from lumina_jax.sampling.policy import candidate_seeds
from lumina_jax.sampling.text import write_texts
from lumina_jax.token_model import TokenModel
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER, conversation_ids
from lumina_jax.unirep.image_tokens import image_sentence
from lumina_jax.unirep.tasks import TASKS
from lumina_jax.vqgan.sharded import decode_images, encode_pixels

MAX_TEXT_TOKENS = 96  # of an answer in words; the longest true one has about 40
BATCH = 16  # images that are encoded together


class Answer(NamedTuple):
    """What a model said to an example, turn by turn: words, or pictures as uint8[Y,X,3]."""

    turns: tuple[str | Images, ...]

    @property
    def last(self) -> str | Images:
        """The one that is scored."""
        return self.turns[-1]


def settings_of(task: str, model: TokenModel, named: Mapping[str, Any]) -> SampleConfig:
    """How a model's answer is drawn: `task_settings`, below those of `named` that are not None."""
    return override(task_settings(TASKS[task], model.settings, model.by_task), named)


def answers(
    model: Lumina, examples: Sequence[Example], progress: bool = True, **named: Any
) -> list[Answer]:
    """The model's answers to examples of one task, drawn with their seeds.

    Earlier answers of a conversation stand in its later turns with the very tokens that were drawn. `named`: settings.
    Raises ValueError of one line for an example that the model has no room for.
    """
    talks: list[_Talk] = [_Talk([], [], []) for _ in examples]
    for place in range(len(examples[0].turns)):
        turns = [example.turns[place] for example in examples]
        shown = encoded(model, [image for turn in turns for image in turn.shown])
        for talk, turn in zip(talks, turns, strict=True):
            talk.said.append({"from": "human", "value": turn.said})
            talk.images.extend(next(shown) for _ in turn.shown)
        settings = settings_of(turns[0].task, model, named)
        seeds = [candidate_seeds(example.seed, place + 1)[place] for example in examples]
        answer = _write if isinstance(turns[0].answer, str) else _paint
        answer(model, talks, turns, [e.truth.size for e in examples], seeds, settings, progress)
    return [Answer(tuple(talk.answers)) for talk in talks]


class _Talk(NamedTuple):
    """A conversation so far."""

    said: list[dict[str, str]]
    images: list[np.ndarray]  # sentences, in the order of the placeholders
    answers: list[str | Images]


def _paint(
    model: Lumina,
    talks: Sequence[_Talk],
    turns: Sequence[Turn],
    sizes: Sequence[tuple[int, int]],
    seeds: Sequence[int],
    settings: SampleConfig,
    progress: bool,
) -> None:
    """Answer every conversation with as many images as the true answer has, one after the other."""
    contexts = [_context(model, talk) for talk in talks]
    drawn: list[list[Any]] = [[] for _ in talks]
    for number in range(len(turns[0].answer)):
        requests = [
            Request(context, *size, seed=candidate_seeds(seed, number + 1)[number])
            for context, size, seed in zip(contexts, sizes, seeds, strict=True)
        ]
        found = _with_bar(model, requests, settings, turns[0].task, progress)
        contexts = [np.concatenate([c, one.ids]) for c, one in zip(contexts, found, strict=True)]
        for row, one in zip(drawn, found, strict=True):
            row.append(one)
    codes = [one.codes for row in drawn for one in row]
    pixels = iter(decode_images(model.vqgan_params, codes, model.config.vqgan, model.layout))
    for talk, row in zip(talks, drawn, strict=True):
        talk.said.append({"from": "gpt", "value": IMAGE_PLACEHOLDER * len(row)})
        talk.images.extend(one.ids for one in row)
        talk.answers.append(tuple(next(pixels) for _ in row))


def _write(
    model: Lumina,
    talks: Sequence[_Talk],
    turns: Sequence[Turn],
    sizes: Sequence[tuple[int, int]],
    seeds: Sequence[int],
    settings: SampleConfig,
    progress: bool,
) -> None:
    """Answer every conversation in words."""
    from tqdm import tqdm

    contexts = [_context(model, talk) for talk in talks]
    with tqdm(total=len(talks), desc=turns[0].task, unit="answer", disable=not progress) as bar:
        written = write_texts(
            model.loaded, contexts, settings, seeds, MAX_TEXT_TOKENS, progress=bar.update
        )
    for talk, ids in zip(talks, written, strict=True):
        text = model.tokenizer.decode([int(i) for i in ids]).strip()
        talk.said.append({"from": "gpt", "value": text})
        talk.answers.append(text)


def _with_bar(
    model: Lumina, requests: list[Request], settings: SampleConfig, title: str, progress: bool
) -> list[Any]:
    from tqdm import tqdm

    patch_px = model.config.grid.patch_px
    num_codes = sum(r.width_px * r.height_px for r in requests) // patch_px**2
    with tqdm(total=num_codes, desc=title, unit="code", disable=not progress) as bar:
        return generate(model.loaded, requests, settings, lambda row: bar.update(row.codes.size))


def _context(model: Lumina, talk: _Talk) -> np.ndarray:
    """The ids of a conversation that waits for an answer, its images as the tokens they have."""
    record = {"conversations": talk.said, "image": talk.images}
    return conversation_ids(record, model.tokenizer, lambda ids: ids)[0]


def encoded(model: Lumina, images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The sentences of images, uint8[Y, X, 3], in order; encoded at their own size, as records of training are."""
    config = model.config

    def encode(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(encode_pixels(model.vqgan_params, pixels, config.vqgan, model.layout))

    for codes in encode_images(images, encode, BATCH):
        yield image_sentence(codes, model.tokenizer.vocab, config.grid, config.image_layout)
