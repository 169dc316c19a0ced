"""The law of free answers: what is drawn with caches, piece by piece, is what whole passes over everything say."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.config import SampleConfig
from lumina_jax.sampling.grammar import possible_sizes
from lumina_jax.sampling.interleaved import AnswerRequest, write_answers
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.grid import forced_ids, image_token_count

GREEDY = SampleConfig(guidance=1.0, image_top_k=1, text_top_k=1)
ROOM = 60


class Passes:
    """Greedy tokens of a model, each from a pass over all before it, without any cache."""

    def __init__(self, model: Lumina, context: np.ndarray):
        self.model, self.ids = model, context.tolist()
        self.vocab, self.grid = model.tokenizer.vocab, model.config.grid
        self.last = len(context) + ROOM

    def add(self, allowed) -> int:
        """The likeliest of the allowed ids (a mask, or their list), which is appended."""
        padded = np.array([self.ids + [0] * (self.last - len(self.ids))])
        logits = self.model.logits(padded)[0, len(self.ids) - 1]
        mask = np.zeros(len(logits), bool)
        mask[allowed] = True
        self.ids.append(int(np.where(mask, logits, -np.inf).argmax()))
        return self.ids[-1]

    def answer(self) -> list[int]:
        """A whole free answer, without its separator."""
        start, vocab = len(self.ids), self.vocab
        every = np.arange(vocab.size)
        text = vocab.is_text(every) & ~np.isin(every, vocab.unspoken_ids) | (every == vocab.sep_id)
        while len(self.ids) < self.last:
            sizes = self.sizes_that_fit()
            if self.add(text | ((every == vocab.image_start_id) & bool(sizes))) == vocab.sep_id:
                return self.ids[start:-1]
            if self.ids[-1] == vocab.image_start_id:
                self.image(sizes)
        return self.ids[start:]

    def sizes_that_fit(self) -> list[tuple[int, int]]:
        """(width, height) in grid units."""
        left = self.last - len(self.ids)
        sizes = possible_sizes(self.model.config)
        fitting = [size for size in sizes if image_token_count(*size, self.grid) <= left]
        return [(w // self.grid.unit_px, h // self.grid.unit_px) for w, h in fitting]

    def image(self, sizes: list[tuple[int, int]]) -> None:
        """The height, the width and the codes."""
        first, codes = self.vocab.first_size_id, self.vocab.first_code_id
        height = self.add([first + h for _, h in sizes]) - first
        width = self.add([first + w for w, h in sizes if h == height]) - first
        for forced in forced_ids(height, width, self.vocab, self.grid)[3:]:
            if forced < 0:
                self.add(slice(codes, codes + self.vocab.num_codes))
            else:
                self.ids.append(int(forced))


@pytest.mark.slow
def test_greedy_free_answer_equals_passes_without_a_cache(small_lumina) -> None:
    """Text, an image, text: the head is bent so that an image starts after two tokens of text."""
    context = prompt_ids("a red star", small_lumina.tokenizer)
    config = replace(small_lumina.config, max_tokens=len(context) + ROOM)
    model = _starting_after(small_lumina, context, 2, config)
    (answer,) = write_answers(model.loaded, [AnswerRequest(context)], GREEDY)
    kinds = [piece.kind for piece in answer.pieces]
    assert kinds[:3] == ["text", "image", "text"] and len(answer.pieces[0].ids) == 2
    assert answer.ids.tolist() == Passes(model, context).answer()


def _starting_after(model: Lumina, context: np.ndarray, count: int, config) -> Lumina:
    """The model with a row of its head for the start of images that wins after `count` tokens, not before."""
    from lumina_jax.model.chameleon import hidden_states

    passes, start = Passes(model, context), model.tokenizer.vocab.image_start_id
    every = np.arange(model.tokenizer.vocab.size)
    for _ in range(count):
        passes.add(every[model.tokenizer.vocab.is_text(every)])
    ids = jnp.array([passes.ids], jnp.int32)
    hidden, _ = hidden_states(model.params, model.config.transformer, ids)
    states = np.asarray(hidden)[0, -count - 1 :]
    row = np.linalg.lstsq(states, np.array([-60.0] * count + [60.0]), rcond=None)[0]
    table = np.array(model.params["head"]["table"])
    table[start] = row
    params = {**model.params, "head": {"table": table}}
    return Lumina(config, params, model.vqgan_params, model.tokenizer)
