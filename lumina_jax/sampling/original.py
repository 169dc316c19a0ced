"""The original's own sampling rules, token by token: free text and images mixed, as its logits processors do.

Source: Alpha-VLLM/Lumina-mGPT 104abe4. Kept exactly, oddities included: outside an image no id is masked, so image
codes may leak into text; the height and width tokens are unconstrained and drawn with the image's top-k but without
guidance; nothing enforces the size that the prompt asks for.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.config import GridConfig, ModelConfig, SampleConfig, TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.chameleon import hidden_states, logits_from_hidden
from lumina_jax.ops.cache import Cache, init_cache, rewind
from lumina_jax.sampling.batch import SLOT_BUCKET
from lumina_jax.sampling.guidance import guide
from lumina_jax.sampling.policy import Policy, draw, make_policy
from lumina_jax.sampling.sequential import MAX_PADDING, inference_config, padded_length
from lumina_jax.unirep.image_tokens import find_images, parse_image
from lumina_jax.unirep.vocab import Vocab

if TYPE_CHECKING:
    from lumina_jax.checkpoint import LoadedModel

# (the tokens after an image's start token, vocabulary, grid) -> the ids [low, high) that may follow
Rule = Callable[[Sequence[int], Vocab, GridConfig], tuple[int, int]]


def continue_ids(
    model: "LoadedModel",
    prompt_ids: Sequence[int] | np.ndarray,
    settings: SampleConfig,
    seed: int = 0,
    num_tokens: int | None = None,
    rule: Rule | None = None,
) -> np.ndarray:
    """What follows `prompt_ids`, int32: exactly `num_tokens`, or up to and with the separator where it is None.

    Text is drawn with `text_top_k`, images with `image_top_k` and, from their third token on, with guidance. Without a
    separator the text ends where the model's longest sequence does. `rule`: what may follow in an image; None:
    `allowed_range`. Raises ValueError where the prompt leaves no room.
    """
    check_layout(model.config)
    vocab, room = model.tokenizer.vocab, model.config.max_tokens - len(prompt_ids)
    longest = room if num_tokens is None else num_tokens
    if not 1 <= longest <= room:
        raise ValueError(
            f"prompt of {len(prompt_ids)} tokens and {longest} to write: want at least 1, "
            f"and {model.config.max_tokens} together"
        )
    writer = Writer(model, prompt_ids, settings, seed, rule or allowed_range)
    for _ in range(longest):
        token_id = writer.write_next()
        if num_tokens is None and token_id == vocab.sep_id:
            break
    return np.array(writer.ids[len(prompt_ids) :], np.int32)


def check_layout(config: ModelConfig) -> None:
    """Raise ValueError of one line unless the model writes the size tokens that these rules read."""
    if config.image_layout != "uni_rep":
        raise ValueError(
            f"grammar 'original' on a model of the {config.image_layout!r} layout: its rules read height and width "
            "tokens, which this model never saw; use grammar 'exact'"
        )


def first_image(ids: np.ndarray, model: "LoadedModel") -> np.ndarray | None:
    """The codes [P, Q] of the first readable image in `ids`, or None."""
    vocab, config = model.tokenizer.vocab, model.config
    for start, stop in find_images(ids, vocab):
        try:
            return parse_image(ids[start:stop], vocab, config.grid, config.image_layout)
        except ValueError:
            continue  # the original's rules allow sizes that no image has
    return None


def allowed_range(since_start: Sequence[int], vocab: Vocab, grid: GridConfig) -> tuple[int, int]:
    """The ids [low, high) that may follow `since_start`, the tokens after an image's start token.

    Height and width are free. With the released ids, a 64 by 32 px image [8805, 8806, ...]: after 4 codes only the line
    end, after the last line end only the image end, else any code.
    """
    if len(since_start) < 2:
        return 0, vocab.size
    codes_per_unit = grid.unit_px // grid.patch_px
    rows, columns = ((i - vocab.first_size_id) * codes_per_unit for i in since_start[:2])
    place, line = len(since_start) - 1, columns + 1
    if line != 0 and place % line == 0:
        return vocab.line_end_id, vocab.line_end_id + 1
    if place == line * rows + 1:
        return vocab.image_end_id, vocab.image_end_id + 1
    return vocab.first_code_id, vocab.first_code_id + vocab.num_codes


def any_id(since_start: Sequence[int], vocab: Vocab, grid: GridConfig) -> tuple[int, int]:
    """The rule of no grammar at all: every id at every place."""
    return 0, vocab.size


class Writer:
    """A sequence under way, with and without its prompt."""

    def __init__(
        self, model: "LoadedModel", prompt_ids, settings: SampleConfig, seed: int, rule: Rule
    ):
        self.model, self.settings, self.rule = model, settings, rule
        self.ids: list[int] = []
        self.policies = [make_policy([settings], [seed], text=is_text) for is_text in (True, False)]
        self.prompted = Stream(model)
        self.unprompted = Stream(model)
        self.num_starts = self.num_ends = self.last_start = 0
        for token_id in prompt_ids:
            self._append(int(token_id))

    def write_next(self) -> int:
        """Draw one token, or take it where the layout forces it, and append it."""
        vocab, grid = self.model.tokenizer.vocab, self.model.config.grid
        in_image = self.num_starts == self.num_ends + 1
        since_start = self.ids[self.last_start + 1 :] if in_image else []
        low, high = self.rule(since_start, vocab, grid) if in_image else (0, vocab.size)
        token_id = low
        if high - low > 1:
            guided = len(since_start) >= 2 and self.settings.guidance != 1
            token_id = _draw_in(
                self.prompted.logits(),
                self.unprompted.logits() if guided else None,
                self.policies[int(in_image)],
                np.array([len(self.ids), low, high], np.int32),
            )
            token_id = int(token_id[0])
        self._append(token_id)
        return token_id

    def _append(self, token_id: int) -> None:
        """Add a token to the sequence, and to the stream that begins at the current image's start."""
        vocab = self.model.tokenizer.vocab
        if token_id == vocab.image_start_id:
            self.num_starts += 1
            if self.num_starts == self.num_ends + 1:
                self.last_start = len(self.ids)
                self.unprompted = Stream(self.model)
        self.num_ends += token_id == vocab.image_end_id
        self.ids.append(token_id)
        self.prompted.pending.append(token_id)
        self.unprompted.pending.append(token_id)


class Stream:
    """One sequence's cache and the tokens not yet in it."""

    def __init__(self, model: "LoadedModel"):
        self.model = model
        self.pending: list[int] = []
        self.cache: Cache | None = None

    def logits(self) -> Array:
        """Float32[1, V] of the token that follows everything appended so far."""
        config = inference_config(self.model.config.transformer)
        count = len(self.pending)
        # Windows of one token, or of a few lengths, so that a few programs serve a whole sequence.
        padded = 1 if count == 1 else padded_length(count)
        if self.cache is None:
            num_slots = self.model.config.max_tokens + MAX_PADDING
            self.cache = init_cache(config, 1, -(-num_slots // SLOT_BUCKET) * SLOT_BUCKET)
        ids = np.zeros((1, padded), np.int32)
        ids[0, :count] = self.pending
        self.pending = []
        logits, self.cache = _feed(
            self.model.params["transformer"], self.cache, ids, jnp.int32(count), config
        )
        return logits


@partial(jax.jit, static_argnames=("config",), donate_argnames=("cache",))
def _feed(
    params: Any, cache: Cache, ids: Array, count: Array, config: TransformerConfig
) -> tuple[Array, Cache]:
    """Append the first `count` of `ids` [1, S] and return the logits after them."""
    length = cache.length + count
    hidden, grown = hidden_states(params, config, ids, cache=cache)
    assert grown is not None
    last = jax.lax.dynamic_slice_in_dim(hidden, count - 1, 1, axis=1)
    return logits_from_hidden(params, config, last)[:, 0], rewind(grown, length)


@jax.jit
def _draw_in(logits: Array, unprompted: Array | None, policy: Policy, place: Array) -> Array:
    """Draw a token; `place` = (its index, lowest id allowed, first id no longer allowed)."""
    if unprompted is not None:
        logits = guide([logits, unprompted], policy.guidance)
    ids = jnp.arange(logits.shape[-1])
    allowed = (ids >= place[1]) & (ids < place[2])
    return draw(jnp.where(allowed, logits, -jnp.inf), policy, place[0])
