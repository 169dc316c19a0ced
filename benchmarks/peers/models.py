"""The models that are compared: the shipped one, and two of about 60 million random weights.

"released format" has the vocabulary, the codes, the depth and the ids of the released 7B, and is narrow; "layers" has a
small vocabulary, so that nearly all weights are read at every step by PyTorch as by us.
"""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.checkpoint import LoadedModel
from lumina_jax.config import GridConfig, ModelConfig, SampleConfig, TransformerConfig
from lumina_jax.lumina import Lumina
from lumina_jax.model.params import abstract_params
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.placement import place_weights
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.tasks import text_to_image
from lumina_jax.unirep.vocab import Vocab

SIZE_PX = 128  # squares of 8 x 8 codes for every model: the largest that the shipped one paints
NUM_PROMPT_TOKENS = 32  # of random models
WEIGHT_STD = 0.02
NUM_SIZES = 65


class Subject(NamedTuple):
    """A model with what to paint by it."""

    name: str
    model: LoadedModel
    settings: SampleConfig
    requests: tuple[Request, ...]
    is_trained: bool = False


def shipped(count: int) -> Subject:
    """ "scenes" with its own settings, in float32."""
    lumina = Lumina.load("scenes")
    text = text_to_image(SIZE_PX, SIZE_PX, "a red dome to the left of a blue ring")
    ids = prompt_ids(text, lumina.tokenizer)
    return Subject("shipped model", lumina.loaded, lumina.settings, requests(ids, count), True)


def released_format(count: int) -> Subject:
    """65536 ids, 8192 codes, untied tables, 32 layers; 59 million weights, of which 34 million in the tables."""
    transformer = TransformerConfig(
        num_layers=32,
        width=256,
        num_heads=8,
        num_kv_heads=8,
        head_size=32,
        mlp_width=704,
        vocab_size=65536,
    )
    return _random("60M, released format", transformer, 8192, count)


def layers(count: int) -> Subject:
    """4096 ids, 1024 codes, 8 wide layers; 63 million weights, of which 6 million in the tables."""
    transformer = TransformerConfig(
        num_layers=8,
        width=768,
        num_heads=12,
        num_kv_heads=12,
        head_size=64,
        mlp_width=2048,
        vocab_size=4096,
    )
    return _random("60M, layers", transformer, 1024, count)


SUBJECTS = {"shipped": shipped, "released": released_format, "layers": layers}


def requests(ids: np.ndarray, count: int) -> tuple[Request, ...]:
    """One image for each of `count` seeds."""
    return tuple(Request(np.asarray(ids), SIZE_PX, SIZE_PX, seed) for seed in range(count))


def vocabulary(size: int, num_codes: int) -> Vocab:
    """Ids of names as in the release: of its own sizes they are those of the released tokenizer."""
    released = num_codes == 8192
    after_codes = 4 + num_codes
    return Vocab(
        size=size,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        sep_id=8710 if released else after_codes + 2,
        image_start_id=after_codes + 1,
        image_end_id=after_codes,
        line_end_id=8803 if released else after_codes + 3,
        first_code_id=4,
        num_codes=num_codes,
        first_size_id=8804 if released else after_codes + 4,
        num_sizes=NUM_SIZES,
    )


def _random(name: str, transformer: TransformerConfig, num_codes: int, count: int) -> Subject:
    """Normal weights, norms of scale 1, drawn by numpy."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.standard_normal(leaf.shape, np.float32) * WEIGHT_STD
        return jnp.asarray(values + (path[-1].key == "scale"))

    params = jax.tree_util.tree_map_with_path(draw, abstract_params(transformer))
    vocab = vocabulary(transformer.vocab_size, num_codes)
    words = rng.integers(vocab.first_size_id + NUM_SIZES, vocab.size, NUM_PROMPT_TOKENS - 2)
    ids = np.concatenate([[vocab.bos_id], words, [vocab.sep_id]])
    config = ModelConfig(transformer, grid=GridConfig(), target_px=SIZE_PX)
    placed = {"transformer": place_weights(params, transformer)}  # as `Lumina` does
    model = LoadedModel(config, placed, SimpleNamespace(vocab=vocab))
    return Subject(name, model, SampleConfig(), requests(ids, count))
