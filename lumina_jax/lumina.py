"""The face of the package: load a model, paint, read images as tokens and back.

    model = Lumina.load("scenes")
    model.generate("a red dome left of a blue ring", size=(128, 128), seed=0).save("dome.png")

`from lumina_jax import Lumina` brings it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lumina_jax.checkpoint import (
    LoadedModel,
)
from lumina_jax.checksums import digests_of_leaves
from lumina_jax.config import ModelConfig, SampleConfig
from lumina_jax.dims import Array
from lumina_jax.generated_image import GeneratedImage
from lumina_jax.image_files import Picture, open_image, read_mask
from lumina_jax.loading import load_parts
from lumina_jax.model.chameleon import forward
from lumina_jax.model.precision import keep_params, keeper, with_precision
from lumina_jax.ops.products import plain_weights
from lumina_jax.painting import (
    Ask,
    Drawn,
    Size,
    draw,
    override,
    request_of,
    spread_asks,
    whole_patches,
)
from lumina_jax.paths import join
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import Generated, Progress
from lumina_jax.sampling.given import continued, with_holes
from lumina_jax.sampling.placement import place_weights
from lumina_jax.sampling.sequential import inference_config
from lumina_jax.sharding import Layout, batch_ways
from lumina_jax.unirep.conversation import conversation_ids
from lumina_jax.unirep.grid import check_size, latent_shape
from lumina_jax.unirep.image_tokens import fit_image, image_sentence, parse_image
from lumina_jax.unirep.text import TextTokenizer
from lumina_jax.vqgan.sharded import decode_images, encode_pixels, place_vqgan


class Lumina:
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
        self.settings = settings or SampleConfig()
        self.precision = precision
        self._digest = checkpoint_digest

    @classmethod
    def load(
        cls, path: str | Path, layout: Layout | None = None, precision: str | None = None
    ) -> "Lumina":
        """Read and verify a model checkpoint: a folder, or "scenes", the model that ships with the package.

        With a `layout` (`sharding.make_layout`) every device reads its share of the transformer. `precision`:
        "float32", "bfloat16", "int8", "int8_weights" or "int4" (`model.precision`); None: its config's. Its notes may
        name sampling settings of its own ("sample"). Raises ValueError of one line.
        """
        parts = load_parts(path, layout, precision)
        return cls(*parts, layout=layout, precision=precision)

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

    def generate(
        self,
        prompt: str | Sequence[str],
        size: Size | Sequence[Size] | None = None,
        seed: int | Sequence[int] = 0,
        *,
        negative_prompt: str | None | Sequence[str | None] = None,
        given: np.ndarray | None | Sequence[np.ndarray | None] = None,
        best_of: int = 1,
        progress: bool | Progress = False,
        **settings: Any,
    ) -> Any:
        """Paint one image, or a list of them where prompt, size or seed is a list (single values serve all).

        `size`: (width, height) px, multiples of the grid's unit; default: the trained square, the only size of a model
        of Chameleon's layout. `settings`: any field of SampleConfig (guidance=3.0, image_top_k=1); what is not named,
        or None, comes from `self.settings`. The same arguments paint the same image, whatever else is in the list.
        `negative_prompt`: what guidance moves away from. `given`: Int[P, Q] codes that stand, -1 where one is drawn
        (see `outpaint` and `inpaint`). `best_of`: draw so many and keep the one that the model finds likeliest.
        `progress`: a bar on stderr, or a function called with every `DrawnRow`. Returns GeneratedImage(s).
        Raises ValueError of one line before painting; warns of a size that no training showed the model.
        """
        chosen = override(self.settings, settings)
        asks, is_list = spread_asks(prompt, size or self.trained_size, seed, negative_prompt, given)
        drawn = draw(self.loaded, asks, chosen, best_of, progress)
        images = self._finish(drawn, asks, chosen)
        return images if is_list else images[0]

    def outpaint(
        self, image: Picture, size: Size, prompt: str | Sequence[str], seed: Any = 0, **options: Any
    ) -> Any:
        """Continue a picture downwards: it is the upper part of an image of `size`, the rest is painted.

        Both are (width, height) px, equally wide, the picture's a multiple of a code's patch. `options` as in
        `generate`. The upper part comes out as the VQGAN renders its codes.
        """
        check_size(*size, self.config.grid)
        given = continued(self._codes(image), latent_shape(*size, self.config.grid))
        return self.generate(prompt, size, seed, given=given, **options)

    def inpaint(
        self,
        image: Picture,
        mask: Picture,
        prompt: str | Sequence[str],
        seed: Any = 0,
        **options: Any,
    ) -> Any:
        """Paint the white part of `mask` anew: every code whose patch it touches; the others stand.

        The picture has an allowed size, the mask the same (bool[Y, X] or a picture). `options` as in `generate`.
        The model writes from the top left, row by row: what is painted fits what is before it in that order, and
        nothing below is seen. Raises ValueError where nothing of the mask is white.
        """
        picture = open_image(image)
        check_size(*picture.size, self.config.grid)
        holes = read_mask(mask, picture.size)
        given = with_holes(self._codes(picture), holes, self.config.grid.patch_px)
        return self.generate(prompt, picture.size, seed, given=given, **options)

    def request(
        self, prompt: str, size: Size, seed: int = 0, settings: SampleConfig | None = None
    ) -> Request:
        """One image as decoders and queues take it; `settings`: None is those of the call that draws it."""
        ask = Ask(prompt, size, seed, None, None)
        request = request_of(ask, self.tokenizer, self.config.image_layout)
        return replace(request, settings=settings)

    def finish(
        self, result: Generated, prompt: str, seed: int, settings: SampleConfig
    ) -> GeneratedImage:
        """What was drawn, as an image with its origin; ValueError where it holds no readable image."""
        ask = Ask(prompt, self.trained_size, seed, None, None)
        return self._finish([Drawn(result, seed, {})], [ask], settings)[0]

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

    def decode_image(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """An image sentence, start and end token included, as uint8[Y, X, 3]; ValueError where it breaks off."""
        config = self.config
        codes = parse_image(np.asarray(ids), self.tokenizer.vocab, config.grid, config.image_layout)
        return decode_images(self.vqgan_params, [codes], config.vqgan, self.layout)[0]

    def conversation_ids(
        self, record: Mapping[str, Any], target_px: int | None = None, root: str | Path = "."
    ) -> tuple[np.ndarray, np.ndarray]:
        """A conversation as (ids, labels), int32, -100 where nothing is predicted; image files lie under `root`."""

        def encode_reference(image: Any) -> np.ndarray:
            path = join(root, image) if isinstance(image, str | PathLike) else image
            return self.encode_image(path, target_px)

        return conversation_ids(record, self.tokenizer, encode_reference)  # type: ignore[arg-type]

    def _finish(
        self, drawn: Sequence[Drawn], asks: Sequence[Ask], settings: SampleConfig
    ) -> list[GeneratedImage]:
        for one in drawn:
            if one.result.codes is None:
                raise ValueError(
                    f"seed {one.seed}: the free grammar wrote no readable image; "
                    "try another seed or grammar='exact'"
                )
        config, vocab = self.config, self.tokenizer.vocab
        codes = [one.result.codes for one in drawn if one.result.codes is not None]
        pixels = decode_images(self.vqgan_params, codes, config.vqgan, self.layout)
        ids = [image_sentence(each, vocab, config.grid, config.image_layout) for each in codes]
        parts = zip(pixels, ids, asks, drawn, strict=True)
        return [
            GeneratedImage(
                picture,
                sentence,
                ask.prompt,
                one.seed,
                settings,
                self.checkpoint,
                one.notes,
                self.precision,
            )
            for picture, sentence, ask, one in parts
        ]

    def _codes(self, image: Picture) -> np.ndarray:
        pixels = whole_patches(open_image(image), self.config.grid.patch_px)[None]
        codes = encode_pixels(self.vqgan_params, pixels, self.config.vqgan, self.layout)
        return np.asarray(codes)[0]


@partial(jax.jit, static_argnames=("config", "layout"))
def _logits(params: Any, ids: Array, config: Any, layout: Layout | None) -> Array:
    return forward(params, config, ids, layout=layout)[0]
