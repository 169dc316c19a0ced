"""Lumina-mGPT's three logits processors in PyTorch, written anew: what its sampling costs and which law it has.

Mirrored from `lumina_mgpt/inference_solver.py` of Alpha-VLLM/Lumina-mGPT 104abe4, in the order of use:

- `UnbatchedGuidance`: a second call of the model a token, on the sequence from the start-of-image token on, with a
  cache of its own. Height and width are drawn without it, and guidance 1 does without the call.
- `ImageGrammar`: within an image only codes; a line end where a line is full, the image's end after the last line.
- `StatusAwareTopK`: another k in images than in text.

All work on the whole row of the vocabulary, as there, and look for an open image in the whole sequence at every call.
Left out, in PyTorch's favour: the prints of every line, comparisons on tensors where numbers do, and the masks that the
original makes anew for every request in Python loops.
"""

import inspect
import math

import torch  # pyright: ignore[reportMissingImports]
from transformers import (  # pyright: ignore[reportMissingImports]
    ChameleonForConditionalGeneration,
    DynamicCache,
    LogitsProcessor,
)
from transformers import LogitsProcessorList as Processors  # pyright: ignore[reportMissingImports]

from lumina_jax.config import GridConfig, SampleConfig
from lumina_jax.unirep.vocab import Vocab

NUM_LEAD = 3  # start, height, width
# What the forward pass calls its cache: transformers renamed it in one of its fifth versions.
CACHE = (
    "cache"
    if "cache" in inspect.signature(ChameleonForConditionalGeneration.forward).parameters
    else "past_key_values"
)


def original_processors(
    model: torch.nn.Module, settings: SampleConfig, vocab: Vocab, grid: GridConfig
) -> Processors:
    """The processors of one request; `ImageGrammar` and `StatusAwareTopK` alone read no model."""
    top_k = settings.image_top_k, settings.text_top_k
    guidance = UnbatchedGuidance(model, settings.guidance, vocab)
    return Processors([guidance, ImageGrammar(vocab, grid), StatusAwareTopK(*top_k, vocab)])


def is_image_open(ids: torch.Tensor, vocab: Vocab) -> bool:
    """Whether `ids` [1, S] have one start-of-image token more than ends."""
    starts = (ids[0] == vocab.image_start_id).sum()
    ends = (ids[0] == vocab.image_end_id).sum()
    return bool(starts == ends + 1)


def last_start(ids: torch.Tensor, vocab: Vocab) -> int:
    """The place of the last start-of-image token in `ids` [1, S]."""
    return int(torch.where(ids[0] == vocab.image_start_id)[0][-1])


class UnbatchedGuidance(LogitsProcessor):
    """s (f - n) + n of scores f and those n of the same image without its prompt, by a call of its own."""

    def __init__(self, model: torch.nn.Module, guidance: float, vocab: Vocab):
        self.model, self.guidance, self.vocab = model, guidance, vocab
        self.start: int | None = None  # of the open image
        self.cache: DynamicCache | None = None
        self.mask = torch.ones(1, 0, dtype=torch.long)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [1, V] of the token after `input_ids` [1, S]."""
        if not is_image_open(input_ids, self.vocab):
            self.start = self.cache = None
            return scores
        if self.start is None:
            self.start = last_start(input_ids, self.vocab)
        if input_ids.shape[1] - self.start < NUM_LEAD or self.guidance == 1:
            return scores
        if self.cache is None:
            self.cache, new = DynamicCache(), input_ids[:, self.start :]
            self.mask = torch.ones_like(new)
        else:
            new = input_ids[:, -1:]
            self.mask = torch.cat([self.mask, torch.ones_like(new)], dim=1)
        out = self.model(new, attention_mask=self.mask, use_cache=True, **{CACHE: self.cache})
        unprompted = out.logits[:, -1]
        return self.guidance * (scores - unprompted) + unprompted


class ImageGrammar(LogitsProcessor):
    """Only what may follow in an image whose height and width have been read."""

    def __init__(self, vocab: Vocab, grid: GridConfig):
        self.vocab, self.codes_per_unit = vocab, grid.unit_px // grid.patch_px
        ids = torch.arange(vocab.size)
        self.suppressed = ~vocab.is_code(ids)
        self.start: int | None = None
        self.shape: tuple[int, int] | None = None  # (P, Q)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [1, V] of the token after `input_ids` [1, S]."""
        vocab = self.vocab
        if not is_image_open(input_ids, vocab):
            self.start = self.shape = None
            return scores
        if self.start is None:
            self.start = last_start(input_ids, vocab)
        if input_ids.shape[1] - self.start < NUM_LEAD:
            return scores
        if self.shape is None:
            size = input_ids[0, self.start + 1 : self.start + NUM_LEAD] - vocab.first_size_id
            height, width = (size * self.codes_per_unit).tolist()
            self.shape = height, width
        rows, columns = self.shape
        place = input_ids.shape[1] - self.start - NUM_LEAD + 1
        if place % (columns + 1) == 0:
            return only(scores, vocab.line_end_id)
        if place == (columns + 1) * rows + 1:
            return only(scores, vocab.image_end_id)
        return torch.where(self.suppressed, -math.inf, scores)


class StatusAwareTopK(LogitsProcessor):
    """Keeps the k best scores, and all that are equal to the last of them; k of images or of text."""

    def __init__(self, image_top_k: int, text_top_k: int, vocab: Vocab):
        self.image_top_k, self.text_top_k, self.vocab = image_top_k, text_top_k, vocab

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [1, V] of the token after `input_ids` [1, S]."""
        top_k = self.image_top_k if is_image_open(input_ids, self.vocab) else self.text_top_k
        least = torch.topk(scores, min(top_k, scores.shape[-1]))[0][..., -1, None]
        return scores.masked_fill(scores < least, -math.inf)


def only(scores: torch.Tensor, token_id: int) -> torch.Tensor:
    """Scores that leave one token."""
    forced = torch.full_like(scores, -math.inf)
    forced[:, token_id] = 0
    return forced
