"""The face of the package: load a model, paint, ask it anything, read images as tokens and back.

    model = Lumina.load("scenes")
    model.generate("a red dome left of a blue ring", size=(128, 128), seed=0).save("dome.png")
    model.edit("photo.png", "make the ring green").save("edited.png")

`from lumina_jax import Lumina` brings it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lumina_jax.answering import AnsweringModel
from lumina_jax.config import SampleConfig
from lumina_jax.generated_image import GeneratedImage
from lumina_jax.image_files import Picture, open_image, read_mask
from lumina_jax.loading import load_parts
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
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import Generated, Progress
from lumina_jax.sampling.given import continued, with_holes
from lumina_jax.sharding import Layout
from lumina_jax.token_model import Origin
from lumina_jax.unirep.grid import check_size, latent_shape
from lumina_jax.vqgan.sharded import encode_pixels


class Lumina(AnsweringModel):
    """A model that paints and answers: `generate` and what goes with it here, the other tasks in `AnsweringModel`."""

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

    def _finish(
        self, drawn: Sequence[Drawn], asks: Sequence[Ask], settings: SampleConfig
    ) -> list[GeneratedImage]:
        for one in drawn:
            if one.result.codes is None:
                raise ValueError(
                    f"seed {one.seed}: the free grammar wrote no readable image; "
                    "try another seed or grammar='exact'"
                )
        codes = [one.result.codes for one in drawn if one.result.codes is not None]
        pairs = zip(asks, drawn, strict=True)
        origins = [Origin(ask.prompt, one.seed, settings, one.notes) for ask, one in pairs]
        return self.pictures(codes, origins)

    def _codes(self, image: Picture) -> np.ndarray:
        pixels = whole_patches(open_image(image), self.config.grid.patch_px)[None]
        codes = encode_pixels(self.vqgan_params, pixels, self.config.vqgan, self.layout)
        return np.asarray(codes)[0]
