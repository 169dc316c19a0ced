"""Conversations: a pure function from the ids of a whole history to the answer, and `Chat`, which keeps those ids.

What was said stays as it was said: images of earlier turns keep their tokens, text its ids, and nothing is decoded and
encoded again. So an answer is the same whether the turns came one by one or as one history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lumina_jax.config import SampleConfig, TaskSampling
from lumina_jax.generated_image import GeneratedImage
from lumina_jax.painting import codes_told, override
from lumina_jax.sampling.generate import Progress
from lumina_jax.sampling.interleaved import AnswerRequest, Kind, Piece, write_answers
from lumina_jax.sampling.policy import MAX_SEED
from lumina_jax.token_model import Origin, Shown, Size, TokenModel
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER, prompt_ids
from lumina_jax.unirep.image_tokens import find_images
from lumina_jax.unirep.tasks import TASKS, Task, find_task, text_to_image, with_placeholders


@dataclass(frozen=True, eq=False)
class Reply:
    """What a model answered."""

    text: str  # of all its pieces
    images: list[GeneratedImage]
    ids: np.ndarray  # int32: the whole answer, without the separator
    pieces: tuple[Piece, ...]  # its text and images in order
    is_finished: bool  # False where the room ended first
    seed: int = 0  # that drew it


def task_settings(
    task: Task, own: SampleConfig, by_task: Sequence[TaskSampling] = ()
) -> SampleConfig:
    """How an answer to a task is drawn: a model's own settings, with the laws of the task's row in `TASKS`.

    What paints from words alone keeps the model's own, which are made for that. A row of `by_task`, the model's
    settings of the task itself, stands above all.
    """
    named = [row.settings for row in by_task if TASKS[row.task] == task]
    return override(_laws(task, own), named[-1] if named else {})


def _laws(task: Task, own: SampleConfig) -> SampleConfig:
    if task.paints:
        return own
    return replace(
        own,
        guidance=task.guidance,
        guidance_schedule=(),
        image_guidance=None,
        temperature=task.temperature,
        image_top_k=task.image_top_k,
        image_top_p=1.0,
        image_min_p=0.0,
        text_top_k=task.text_top_k,
    )


def answer_history(
    model: TokenModel,
    ids: np.ndarray,
    want: Kind | None = None,
    size: Size | None = None,
    seed: int = 0,
    settings: SampleConfig | None = None,
    max_tokens: int | None = None,
) -> Reply:
    """The answer to a conversation, int32 ids [start, … , separator]: a pure function of its arguments.

    `settings`: None is those of the task whose words the last turn has, as in a `Chat` without settings of its own.
    Raises ValueError of one line where the conversation leaves no room.
    """
    chosen = settings or turn_settings(model, ids, want)
    request = AnswerRequest(ids, want, size, seed=seed, settings=chosen, max_tokens=max_tokens)
    return write_replies(model, [request], [""])[0]


def turn_settings(model: TokenModel, ids: np.ndarray, want: Kind | None = None) -> SampleConfig:
    """How the answer to the last turn of a conversation is drawn unless told otherwise.

    By the task whose fixed words that turn has (`unirep.tasks`). Other words that want an image are an edit where an
    image was before; the rest is drawn as chats are.
    """
    vocab, turn = model.tokenizer.vocab, np.asarray(ids)[:-1]
    before = np.flatnonzero(turn == vocab.sep_id)
    turn = turn[before[-1] + 1 if len(before) else 1 :]  # after a separator, or the start token
    spans = find_images(turn, vocab)
    edges = [0, *(place for span in spans for place in span), len(turn)]
    texts = [
        model.tokenizer.decode(turn[start:stop].tolist())
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]
    said = f" {IMAGE_PLACEHOLDER} ".join(text.strip() for text in texts).strip()
    free = "chat"
    if want == "image" and find_images(ids, vocab):
        free = "edit" if spans else "next_edit"
    return task_settings(TASKS[find_task(said) or free], model.settings, model.by_task)


def turn_seed(seed: int, turn: int) -> int:
    """The seed of turn 0, 1, … of a chat: its own first, then others, so that what is asked twice is drawn twice."""
    if not turn or not 0 <= seed <= MAX_SEED:  # whoever draws from it says so
        return seed
    return int(np.random.SeedSequence((seed, 0, turn)).generate_state(1)[0]) & MAX_SEED


def write_replies(
    model: TokenModel,
    requests: Sequence[AnswerRequest],
    prompts: Sequence[str],
    notes: Mapping[str, str] | None = None,
    progress: bool | Progress = False,
) -> list[Reply]:
    """Write all answers and decode their images, whose metadata tell the prompts and `notes`.

    Images of an answer are numbered in their metadata where there are several.
    """
    with codes_told(progress, _num_codes(model, requests)) as told:
        answers = write_answers(model.loaded, requests, progress=told)
    sentences, origins, sizes = [], [], []
    for request, answer, prompt in zip(requests, answers, prompts, strict=True):
        for place, ids in enumerate(answer.images, 1):
            count = len(answer.images)
            told_of = {**(notes or {}), **({"view": f"{place} of {count}"} if count > 1 else {})}
            settings = request.settings or model.settings
            sentences.append(ids)
            sizes.append(request.size)
            origins.append(Origin(prompt, request.seed, settings, told_of))
    pictures = iter(model.pictures_of(sentences, origins, sizes) if sentences else [])
    return [
        Reply(
            model.tokenizer.decode(answer.text_ids),
            [next(pictures) for _ in answer.images],
            answer.ids,
            answer.pieces,
            answer.is_finished,
            request.seed,
        )
        for request, answer in zip(requests, answers, strict=True)
    ]


class Chat:
    """A conversation with a model.

    chat = model.chat()
    chat.draw("a red dome", size=(128, 128)).images[0].save("dome.png")
    chat.send("make the dome blue", want="image").images[0].save("blue.png")
    print(chat.send("What colour is the dome?").text)
    """

    def __init__(self, model: TokenModel, seed: int = 0, **settings: Any):
        """An empty conversation.

        `settings` (fields of SampleConfig) are those of turns that name none; a turn's seed is then `turn_seed` of
        `seed` and of how many turns were before, and is told by `Reply.seed`.
        """
        override(model.settings, settings)
        self.model, self.seed, self.settings = model, seed, settings
        self.ids = np.zeros(0, np.int32)  # of all turns, each with its separator
        self.turns: list[tuple[str, Reply]] = []

    def send(
        self,
        text: str,
        images: Sequence[Shown] | Shown = (),
        size: Size | None = None,
        want: Kind | None = None,
        seed: int | None = None,
        *,
        max_tokens: int | None = None,
        **settings: Any,
    ) -> Reply:
        """Say a turn and have the answer; a turn that fails leaves the conversation as it was.

        `images` stand where the text has <|image|>, else after its words. `want`: "image", "text", or None for whatever
        the model chooses. `size`: of the answer's images; with want "image" that of the newest image so far, or else
        the trained square; without `want` the model draws it. `settings` as in `generate`; what is named nowhere is the
        default of the task whose words the text has (`turn_settings`). Raises ValueError of one line.
        """
        shown: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        said = with_placeholders(text, len(shown))
        sentences = [self.model.image_ids(each) for each in shown]
        context = self._extended(prompt_ids(said, self.model.tokenizer, sentences, np.asarray))
        if want == "image" and size is None:
            size = self._newest_size(context)
        chats = override(turn_settings(self.model, context, want), self.settings)
        chosen = override(chats, settings)
        seed = turn_seed(self.seed, len(self.turns)) if seed is None else seed
        request = AnswerRequest(
            context, want, size, seed=seed, settings=chosen, max_tokens=max_tokens
        )
        (reply,) = write_replies(self.model, [request], [said], {"task": "chat"})
        self.ids = np.append(
            np.concatenate([context, reply.ids]), self.model.tokenizer.vocab.sep_id
        ).astype(np.int32)
        self.turns.append((said, reply))
        return reply

    def draw(
        self, caption: str, size: Size | None = None, seed: int | None = None, **settings: Any
    ) -> Reply:
        """Ask for an image of a caption, in the words that the model learnt for it."""
        size = size or self.model.trained_size
        text = text_to_image(*size, caption, self.model.config.image_layout)
        return self.send(text, size=size, want="image", seed=seed, **settings)

    @property
    def images(self) -> list[np.ndarray]:
        """The ids of every image so far, shown or painted."""
        return [
            self.ids[slice(*span)] for span in find_images(self.ids, self.model.tokenizer.vocab)
        ]

    def _extended(self, turn: np.ndarray) -> np.ndarray:
        """The conversation with one more turn, which comes with a start token of its own."""
        return turn if not len(self.ids) else np.concatenate([self.ids, turn[1:]])

    def _newest_size(self, ids: np.ndarray) -> Size:
        spans = find_images(ids, self.model.tokenizer.vocab)
        if not spans:
            return self.model.trained_size
        return self.model.image_size(ids[slice(*spans[-1])])


def _num_codes(model: TokenModel, requests: Sequence[AnswerRequest]) -> int | None:
    """How many codes will be drawn; None where the model chooses what it draws."""
    if any(request.want is None for request in requests):
        return None
    patch_px = model.config.grid.patch_px
    return sum(
        request.num_images * (request.size[0] // patch_px) * (request.size[1] // patch_px)
        for request in requests
        if request.want == "image" and request.size is not None
    )
