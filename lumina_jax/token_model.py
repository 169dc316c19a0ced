"""A model in memory as what it reads and writes: logits of ids, images and conversations as tokens and back."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lumina_jax.checkpoint import LoadedModel
from lumina_jax.checksums import digests_of_leaves
from lumina_jax.config import ModelConfig, SampleConfig, TaskSampling
from lumina_jax.dims import Array, pick
from lumina_jax.generated_image import GeneratedImage
from lumina_jax.image_files import Picture, open_image
from lumina_jax.model.chameleon import forward
from lumina_jax.model.precision import keep_params, keeper, with_precision
from lumina_jax.ops.products import plain_weights
from lumina_jax.paths import join
from lumina_jax.sampling.placement import place_weights
from lumina_jax.sampling.sequential import inference_config
from lumina_jax.sharding import Layout, batch_ways
from lumina_jax.unirep.conversation import conversation_ids
from lumina_jax.unirep.grid import latent_shape
from lumina_jax.unirep.image_tokens import fit_image, image_sentence, parse_image
from lumina_jax.unirep.tasks import TASKS
from lumina_jax.unirep.text import TextTokenizer
from lumina_jax.vqgan.sharded import decode_images, encode_pixels, place_vqgan

Size = tuple[int, int]  # (width, height) px
OWN_SETTINGS = (
    "text_to_image",
    "text_to_image_any_size",
)  # tasks that a model's settings are made for
# A picture; or one that is tokens already, which are used as they are: a painted one, or the ids of an image sentence
Shown = Picture | GeneratedImage


class Origin(NamedTuple):
    """What painted an image."""

    prompt: str
    seed: int
    settings: SampleConfig
    notes: Mapping[str, str] = {}


class TokenModel:
    """A transformer, its VQGAN and its tokenizer, ready to use on the default device or on a mesh of devices."""

    def __init__(
        self,
        config: ModelConfig,
        params: Any,
        vqgan_params: Any,
        tokenizer: TextTokenizer,
        settings: SampleConfig | None = None,
        checkpoint_digest: str | None = None,
        layout: Layout | None = None,
        precision: str | None = None,
    ):
        """From parts: unstacked transformer weights, VQGAN weights; `settings` are the defaults of `generate`.

        Weights are brought once into the form of `precision`, a row of `model.precision.PRECISIONS` (None: the config's
        compute dtype), the VQGAN's to float32. `layout` spreads them and all work over a mesh. Raises ValueError where
        the parts do not belong together or do not fit the mesh.
        """
        vocab = tokenizer.vocab
        if vocab.size > config.transformer.vocab_size or vocab.num_codes != config.vqgan.num_codes:
            raise ValueError(
                f"tokenizer of {vocab.size} ids and {vocab.num_codes} codes: the model has "
                f"{config.transformer.vocab_size} and {config.vqgan.num_codes}; use the tokenizer it was trained with"
            )
        transformer = inference_config(with_precision(config.transformer, precision))
        self.config = replace(config, transformer=transformer)
        self.layout = layout
        kept = keep_params(params, keeper(config.transformer, precision))
        self.params = place_weights(kept, transformer, layout)
        self.vqgan_params = place_vqgan(vqgan_params, layout)
        self.tokenizer = tokenizer
        given = settings or SampleConfig()
        check_tasks(given.by_task)
        self.by_task = (
            given.by_task
        )  # how answers to tasks are drawn, where not as their rows in TASKS say
        self.settings = replace(given, by_task=())  # of all else, and of what those rows leave open
        self.precision = precision
        self._digest = checkpoint_digest

    @property
    def trained_size(self) -> Size:
        """(width, height) px of the trained square: what `generate` paints unless told otherwise."""
        return self.config.target_px, self.config.target_px

    @property
    def loaded(self) -> LoadedModel:
        """The same model as `sampling.generate` takes it."""
        params = {"transformer": self.params, "vqgan": self.vqgan_params}
        return LoadedModel(self.config, params, self.tokenizer, self.layout)

    @cached_property
    def checkpoint(self) -> str:
        """12 hex digits that name these weights."""
        if self._digest is not None:
            return self._digest
        plain = plain_weights(self.loaded.params)
        sums = json.dumps(digests_of_leaves(plain), sort_keys=True)
        return hashlib.sha256(sums.encode()).hexdigest()[:12]

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Float32[B, S, V] of ids [B, S]. Raises ValueError for another shape or ids outside the vocabulary."""
        ids, size = np.asarray(ids), self.config.transformer.vocab_size
        if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"ids of {ids.dtype} {ids.shape}: want integers [sequences, tokens]")
        if ids.min() < 0 or ids.max() >= size:
            raise ValueError(f"ids from {ids.min()} to {ids.max()}: want 0 to {size - 1}")
        rows = np.pad(ids, ((0, -len(ids) % batch_ways(self.layout)), (0, 0))).astype(np.int32)
        logits = _logits(self.params, rows, self.config.transformer, self.layout)
        return np.asarray(logits)[: len(ids)]

    def encode_image(self, image: Picture, target_px: int | None = None) -> np.ndarray:
        """A PIL image, array or file as the int32 ids of an image sentence, from start to end token.

        It is cut to the allowed size nearest its shape, of about target_px² (default: the trained area), or in
        Chameleon's layout to the square itself.
        """
        config, vocab = self.config, self.tokenizer.vocab
        side_px, layout = target_px or config.target_px, config.image_layout
        pixels = fit_image(open_image(image), side_px, config.grid, layout=layout)
        codes = encode_pixels(self.vqgan_params, pixels[None], config.vqgan, self.layout)
        return image_sentence(np.asarray(codes)[0], vocab, config.grid, layout)

    def image_ids(self, shown: Shown) -> np.ndarray:
        """What the model reads of a picture, int32 from start to end token.

        `encode_image` of a picture; a GeneratedImage, or the ids of an image sentence (an array of integers [tokens]),
        keep their tokens, which mean the same to models with the same VQGAN only; nothing can check that of ids.
        Raises ValueError where those are no image of this model's vocabulary and layout.
        """
        if isinstance(shown, GeneratedImage):
            return self._checked_image(shown.ids, shown.size)
        if isinstance(shown, np.ndarray) and shown.ndim == 1:
            if not np.issubdtype(shown.dtype, np.integer):
                raise ValueError(f"ids of an image as {shown.dtype}: want integers")
            return self._checked_image(shown)
        return self.encode_image(shown)

    def image_size(self, ids: np.ndarray) -> Size:
        """(width, height) px of an image sentence; ValueError where it breaks off or its layout does not tell."""
        rows, columns = self._codes_of(ids).shape
        return columns * self.config.grid.patch_px, rows * self.config.grid.patch_px

    def decode_image(self, ids: Sequence[int] | np.ndarray, size: Size | None = None) -> np.ndarray:
        """An image sentence, start and end token included, as uint8[Y, X, 3]; ValueError where it breaks off.

        `size`: what a sentence of the layout "plain" does not tell.
        """
        codes = self._codes_of(np.asarray(ids), size)
        return decode_images(self.vqgan_params, [codes], self.config.vqgan, self.layout)[0]

    def conversation_ids(
        self, record: Mapping[str, Any], target_px: int | None = None, root: str | Path = "."
    ) -> tuple[np.ndarray, np.ndarray]:
        """A conversation as (ids, labels), int32, -100 where nothing is predicted; image files lie under `root`.

        Images are read as by `image_ids`, which keeps tokens; those for `target_px` all as pictures.
        """

        def encode_reference(image: Any) -> np.ndarray:
            path = join(root, image) if isinstance(image, str | PathLike) else image
            return self.image_ids(path) if target_px is None else self.encode_image(path, target_px)

        return conversation_ids(record, self.tokenizer, encode_reference)  # type: ignore[arg-type]

    def pictures(
        self, codes: Sequence[np.ndarray], origins: Sequence[Origin]
    ) -> list[GeneratedImage]:
        """Codes [P, Q] as images with their origins, those of one size decoded together."""
        config, vocab = self.config, self.tokenizer.vocab
        pixels = decode_images(self.vqgan_params, codes, config.vqgan, self.layout)
        ids = [image_sentence(each, vocab, config.grid, config.image_layout) for each in codes]
        return [
            GeneratedImage(
                picture,
                sentence,
                origin.prompt,
                origin.seed,
                origin.settings,
                self.checkpoint,
                origin.notes,
                self.precision,
            )
            for picture, sentence, origin in zip(pixels, ids, origins, strict=True)
        ]

    def pictures_of(
        self,
        sentences: Sequence[np.ndarray],
        origins: Sequence[Origin],
        sizes: Sequence[Size | None],
    ) -> list[GeneratedImage]:
        """`pictures` of image sentences; `sizes` where the layout does not tell them."""
        codes = [self._codes_of(*each) for each in zip(sentences, sizes, strict=True)]
        return self.pictures(codes, origins)

    def _codes_of(self, ids: np.ndarray, size: Size | None = None) -> np.ndarray:
        config, vocab = self.config, self.tokenizer.vocab
        shape = latent_shape(*size, config.grid) if size else None
        return parse_image(ids, vocab, config.grid, config.image_layout, shape)

    def _checked_image(self, ids: np.ndarray, size: Size | None = None) -> np.ndarray:
        self._codes_of(ids, size)
        return ids.astype(np.int32)


def check_tasks(rows: Sequence[TaskSampling]) -> None:
    """ValueError of one line for settings of an unknown task, or of one that a model's own settings are made for."""
    for row in rows:
        if row.task in OWN_SETTINGS:
            raise ValueError(
                f"settings of the task {row.task!r}: what paints from words has the model's own; name them there"
            )
        pick(TASKS, row.task, "task of the settings")


@partial(jax.jit, static_argnames=("config", "layout"))
def _logits(params: Any, ids: Array, config: Any, layout: Layout | None) -> Array:
    return forward(params, config, ids, layout=layout)[0]
