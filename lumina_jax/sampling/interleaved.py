"""Answers of text and images, whatever the model wants to say or the caller asks for: the whole of a turn.

An answer is written piece after piece. Text ends at the separator, or at the start of an image: then the height and
the width are drawn among the sizes that fit what the sequence has left, the codes by any of the decoders with all that
came before as their prompt, and text goes on. Every image of an answer therefore has a size of the grid and can be
decoded. The pieces of many answers are drawn in the same batches.

Image number k of an answer is drawn from seed k of `candidate_seeds`: the first from the answer's own, as `generate`
does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from lumina_jax.config import SampleConfig
from lumina_jax.dims import pick
from lumina_jax.sampling import DECODERS
from lumina_jax.sampling.batch import DrawnRow, Request
from lumina_jax.sampling.drafts import DRAFTS
from lumina_jax.sampling.generate import Progress, generate
from lumina_jax.sampling.grammar import check_room, possible_sizes
from lumina_jax.sampling.policy import MAX_SEED, candidate_seeds
from lumina_jax.sampling.text import TextJob, draw_texts, text_room
from lumina_jax.unirep.grid import image_token_count, tells_size

if TYPE_CHECKING:
    from lumina_jax.checkpoint import LoadedModel

Kind = Literal["text", "image"]
Size = tuple[int, int]  # (width, height) px


class Piece(NamedTuple):
    """A run of text, or an image sentence from start to end token."""

    kind: Kind
    ids: np.ndarray  # int32


class Answer(NamedTuple):
    """What was said, in order."""

    pieces: tuple[Piece, ...]
    is_finished: bool  # False where the room ended before the separator

    @property
    def ids(self) -> np.ndarray:
        """All of it, int32, without the separator."""
        return np.concatenate([np.zeros(0, np.int32), *(piece.ids for piece in self.pieces)])

    @property
    def images(self) -> list[np.ndarray]:
        """The image sentences."""
        return [piece.ids for piece in self.pieces if piece.kind == "image"]

    @property
    def text_ids(self) -> list[int]:
        """The ids of all text."""
        return [int(i) for piece in self.pieces if piece.kind == "text" for i in piece.ids]


@dataclass(frozen=True, eq=False)
class AnswerRequest:
    """One answer to write. It depends on these fields and the settings only, not on the other requests."""

    context: np.ndarray  # [start, … , separator]: the conversation so far
    want: Kind | None = None  # None: text and images as the model chooses
    size: Size | None = None  # of its images; None: drawn among those that fit; "image" wants one
    num_images: int = 1  # of want "image"
    seed: int = 0
    settings: SampleConfig | None = None  # None: those of the call
    max_tokens: int | None = None  # most ids of the answer, images included; None: all there is


@dataclass(eq=False)
class _Draft:
    """An answer under way."""

    index: int  # of its request
    request: AnswerRequest
    settings: SampleConfig
    room: int  # most ids of the whole answer
    next: Kind | None
    pieces: list[Piece] = field(default_factory=list)
    is_finished: bool = False

    @property
    def num_written(self) -> int:
        return sum(len(piece.ids) for piece in self.pieces)

    @property
    def num_images(self) -> int:
        return sum(piece.kind == "image" for piece in self.pieces)

    @property
    def room_left(self) -> int:
        return self.room - self.num_written

    @property
    def context(self) -> np.ndarray:
        parts = [self.request.context, *(piece.ids for piece in self.pieces)]
        return np.concatenate(parts).astype(np.int32)

    @property
    def image_seed(self) -> int:
        return candidate_seeds(self.request.seed, self.num_images + 1)[-1]


def write_answers(
    model: "LoadedModel",
    requests: Sequence[AnswerRequest],
    settings: SampleConfig | None = None,
    progress: Progress | None = None,
    max_batch: int | None = None,
) -> list[Answer]:
    """Write every answer; `progress` is told of every row of codes and of the places of its requests in the call.

    Raises ValueError of one line, before anything is drawn, for a conversation without room for what is asked.
    """
    shared = settings or SampleConfig()
    drafts = [_begin(model, *each, shared) for each in enumerate(requests)]
    while any(draft.next for draft in drafts):
        _write(model, [draft for draft in drafts if draft.next == "text"], max_batch)
        _paint(model, [draft for draft in drafts if draft.next == "image"], progress, max_batch)
    return [Answer(tuple(draft.pieces), draft.is_finished) for draft in drafts]


def _begin(
    model: "LoadedModel", index: int, request: AnswerRequest, shared: SampleConfig
) -> _Draft:
    """A request checked, nothing written yet."""
    settings, config = request.settings or shared, model.config
    _check_drawing(settings, request.seed, config.image_layout)
    if request.max_tokens is not None and request.max_tokens < 1:
        raise ValueError(f"max_tokens {request.max_tokens}: want at least 1")
    if request.num_images < 1:
        raise ValueError(f"{request.num_images} images: want at least 1")
    room = text_room(model, request.context)
    room = room if request.max_tokens is None else min(room, request.max_tokens)
    if request.want == "image":
        if request.size is None:
            raise ValueError("an image without a size: say how large it is to be")
        check_room(*request.size, len(request.context), config, "conversation")
        needed = request.num_images * _count(model, request.size)
        if needed > room:
            raise ValueError(
                "{} images of {}x{} px: need {} tokens, there is room for {}; ask for fewer or smaller "
                "ones".format(request.num_images, *request.size, needed, room)
            )
    elif request.size is None and request.want is None and config.image_layout == "plain":
        raise ValueError(
            "text and images of any size on a model of the layout 'plain', which draws no size: say that of "
            "images, or want 'text'"
        )
    elif request.size is not None:
        # Whether one fits the rest of the room is seen when the model begins one; text needs none.
        check_room(*request.size, 0, config, "empty conversation")
    first: Kind = "image" if request.want == "image" else "text"
    return _Draft(index, request, settings, room, first)


def _check_drawing(settings: SampleConfig, seed: int, image_layout: str) -> None:
    """ValueError of one line for what no answer is drawn from."""
    if settings.grammar != "exact":
        raise ValueError(
            f"grammar {settings.grammar!r}: answers are written by 'exact' only; `generate` knows the other"
        )
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed}: want 0 to {MAX_SEED}")
    pick(DECODERS, settings.decoder, "decoder")
    pick(DRAFTS, settings.drafts, "draft")
    if settings.decoder == "staggered" and not tells_size(image_layout):
        raise ValueError(
            f"decoder 'staggered': needs line ends, the layout {image_layout!r} has none"
        )


def _write(model: "LoadedModel", drafts: Sequence[_Draft], max_batch: int | None) -> None:
    """Let every draft go on with text, up to its separator, the start of an image or the end of its room."""
    vocab = model.tokenizer.vocab
    jobs = []
    for draft in drafts:
        least = min((_count(model, size) for size in _sizes(model, draft)), default=0)
        is_free = draft.request.want is None and least > 0
        jobs.append(
            TextJob(
                draft.context,
                draft.settings,
                draft.request.seed,
                draft.room_left,
                first_index=draft.num_written,
                num_starts=draft.room_left - least + 1 if is_free else 0,
            )
        )
    for draft, ids in zip(drafts, draw_texts(model, jobs, max_batch=max_batch), strict=True):
        draft.next = "image" if ids[-1] == vocab.image_start_id else None
        draft.is_finished = bool(ids[-1] == vocab.sep_id)
        text = ids if not draft.is_finished and draft.next is None else ids[:-1]
        draft.pieces += [Piece("text", text)] if len(text) else []


def _paint(
    model: "LoadedModel",
    drafts: Sequence[_Draft],
    progress: Progress | None,
    max_batch: int | None,
) -> None:
    """Let every draft go on with an image."""
    if not drafts:
        return
    requests = [
        Request(
            draft.context,
            *size,
            seed=draft.image_seed,
            settings=draft.settings,
            padded_to=_final_length(model, draft),
        )
        for draft, size in zip(drafts, _draw_sizes(model, drafts, max_batch), strict=True)
    ]

    def tell(row: DrawnRow) -> None:
        if progress is not None:
            progress(row._replace(requests=tuple(drafts[i].index for i in row.requests)))

    drawn = generate(model, requests, progress=tell, max_batch=max_batch)
    for draft, result in zip(drafts, drawn, strict=True):
        draft.pieces.append(Piece("image", result.ids))
        if draft.request.want == "image":
            draft.is_finished = draft.num_images == draft.request.num_images
            draft.next = None if draft.is_finished else "image"
        else:
            draft.next = "text" if draft.room_left > 0 else None


def _final_length(model: "LoadedModel", draft: _Draft) -> int:
    """How many tokens context and answer will have when all images are there; 0 where the model chooses them."""
    request = draft.request
    if request.want != "image" or request.size is None:
        return 0
    return len(request.context) + request.num_images * _count(model, request.size)


def _draw_sizes(
    model: "LoadedModel", drafts: Sequence[_Draft], max_batch: int | None
) -> list[Size]:
    """The size of each draft's next image: the asked one, or height, then width, as the model draws them.

    Both are drawn as codes are, with the image's top-k, but without guidance, as in the original.
    """
    vocab, unit_px = model.tokenizer.vocab, model.config.grid.unit_px
    left = [_sizes(model, draft) for draft in drafts]
    heads = [[vocab.image_start_id] for _ in drafts]
    for axis in (1, 0):  # height first
        open_rows = [row for row, sizes in enumerate(left) if len({s[axis] for s in sizes}) > 1]
        jobs = []
        for row in open_rows:
            draft = drafts[row]
            units = sorted({size[axis] // unit_px for size in left[row]})
            jobs.append(
                TextJob(
                    np.concatenate([draft.context, heads[row]]).astype(np.int32),
                    replace(draft.settings, text_top_k=draft.settings.image_top_k),
                    draft.image_seed,
                    limit=1,
                    first_index=len(heads[row]),
                    allowed=np.array([vocab.size_id(count) for count in units]),
                )
            )
        for row, ids in zip(open_rows, draw_texts(model, jobs, max_batch=max_batch), strict=True):
            side_px = (int(ids[0]) - vocab.first_size_id) * unit_px
            left[row] = [size for size in left[row] if size[axis] == side_px]
        if axis == 1:
            heads = [
                [*head, vocab.size_id(sizes[0][1] // unit_px)]
                for head, sizes in zip(heads, left, strict=True)
            ]
    return [sizes[0] for sizes in left]


def _sizes(model: "LoadedModel", draft: _Draft) -> list[Size]:
    """The sizes that an image of the draft may have now."""
    asked = draft.request.size
    sizes = possible_sizes(model.config) if asked is None else (asked,)
    if draft.request.want == "image":
        return list(sizes)
    return [size for size in sizes if _count(model, size) <= draft.room_left]


def _count(model: "LoadedModel", size: Size) -> int:
    return image_token_count(*size, model.config.grid, model.config.image_layout)
