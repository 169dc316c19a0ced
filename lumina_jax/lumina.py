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
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_leaves_with_path

from lumina_jax.checkpoint import (
    CheckpointError,
    LoadedModel,
    digest,
    load_model,
    read_config,
    resolve,
)
from lumina_jax.checksums import digests_of_leaves, leaf_name
from lumina_jax.config import ModelConfig, SampleConfig, VQGANConfig
from lumina_jax.config_json import config_from_dict
from lumina_jax.dims import Array
from lumina_jax.generated_image import GeneratedImage
from lumina_jax.image_files import Picture, open_image
from lumina_jax.model.chameleon import forward
from lumina_jax.model.params import abstract_params
from lumina_jax.model.precision import keep_params, keeper, with_precision
from lumina_jax.ops.products import is_stored
from lumina_jax.paths import join
from lumina_jax.sampling.generate import Generated, Progress, Request, generate, prepare
from lumina_jax.sampling.sequential import inference_config
from lumina_jax.unirep.conversation import conversation_ids, prompt_ids
from lumina_jax.unirep.image_tokens import fit_image, image_sentence, parse_image
from lumina_jax.unirep.tasks import text_to_image
from lumina_jax.unirep.text import TextTokenizer
from lumina_jax.vqgan.codec import abstract_vqgan, decode, encode, from_pixels, to_pixels

Size = tuple[int, int]  # (width, height) px


class Lumina:
    """A transformer, its VQGAN and its tokenizer, ready to use on this machine's default device."""

    def __init__(
        self,
        config: ModelConfig,
        params: Any,
        vqgan_params: Any,
        tokenizer: TextTokenizer,
        settings: SampleConfig | None = None,
        checkpoint_digest: str | None = None,
        precision: str | None = None,
    ):
        """From parts: unstacked transformer weights, VQGAN weights; `settings` are the defaults of `generate`.

        Weights are brought once into the form of `precision`, a row of `model.precision.PRECISIONS` (None: the config's
        compute dtype), the VQGAN's to float32. Raises ValueError where the parts do not belong together.
        """
        vocab = tokenizer.vocab
        if vocab.size > config.transformer.vocab_size or vocab.num_codes != config.vqgan.num_codes:
            raise ValueError(
                f"tokenizer of {vocab.size} ids and {vocab.num_codes} codes: the model has "
                f"{config.transformer.vocab_size} and {config.vqgan.num_codes}; use the tokenizer it was trained with"
            )
        transformer = inference_config(with_precision(config.transformer, precision))
        self.config = replace(config, transformer=transformer)
        self.params = keep_params(params, keeper(config.transformer, precision))
        self.vqgan_params = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), vqgan_params)
        self.tokenizer = tokenizer
        self.settings = settings or SampleConfig()
        self.precision = precision
        self._digest = checkpoint_digest

    @classmethod
    def load(cls, path: str | Path, precision: str | None = None) -> "Lumina":
        """Read and verify a model checkpoint: a folder, or "scenes", the model that ships with the package.

        `precision`: "float32", "bfloat16", "int8", "int8_weights" or "int4" (`model.precision`); None: its config's.
        Its notes may name sampling settings of its own ("sample"). Raises CheckpointError (a ValueError) of one line.
        """
        folder = resolve(path)
        config, notes = read_config(folder)
        loaded = load_model(folder, keep={"transformer": keeper(config.transformer, precision)})
        missing = [name for name in ("transformer", "vqgan") if name not in loaded.params]
        missing += ["tokenizer"] * (loaded.tokenizer is None)
        if missing:
            raise ValueError(
                f"{folder}: has no {' and no '.join(missing)}; want a complete model checkpoint"
            )
        _check_trees(folder, loaded)
        settings = _own_settings(folder, notes)
        parts = loaded.params["transformer"], loaded.params["vqgan"]
        return cls(config, *parts, loaded.tokenizer, settings, digest(folder), precision)

    @property
    def trained_size(self) -> Size:
        """(width, height) px of the trained square: what `generate` paints unless told otherwise."""
        return self.config.target_px, self.config.target_px

    @property
    def loaded(self) -> LoadedModel:
        """The same model as `sampling.generate` takes it."""
        params = {"transformer": self.params, "vqgan": self.vqgan_params}
        return LoadedModel(self.config, params, self.tokenizer)

    @cached_property
    def checkpoint(self) -> str:
        """12 hex digits that name these weights."""
        if self._digest is not None:
            return self._digest
        sums = json.dumps(digests_of_leaves(self.loaded.params), sort_keys=True)
        return hashlib.sha256(sums.encode()).hexdigest()[:12]

    def generate(
        self,
        prompt: str | Sequence[str],
        size: Size | Sequence[Size] | None = None,
        seed: int | Sequence[int] = 0,
        *,
        guidance: float | None = None,
        image_guidance: float | None = None,
        temperature: float | None = None,
        image_top_k: int | None = None,
        image_top_p: float | None = None,
        grammar: str | None = None,
        progress: bool | Progress = False,
    ) -> Any:
        """Paint one image, or a list of them where prompt, size or seed is a list (single values serve all).

        `size`: (width, height) px, multiples of the grid's unit; default: the trained square, the only size of a model
        of Chameleon's layout. What is None comes from `self.settings`. The same prompt, size, seed and settings paint
        the same image, whatever else is in the list.
        `progress`: a bar on stderr, or a function called with every finished `Row`. Returns GeneratedImage(s).
        Raises ValueError of one line before painting.
        """
        named = {"guidance": guidance, "image_guidance": image_guidance, "temperature": temperature}
        named |= {"image_top_k": image_top_k, "image_top_p": image_top_p, "grammar": grammar}
        given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        settings = replace(self.settings, **given)
        layout = self.config.image_layout
        asked, is_list = _broadcast(prompt, size or self.trained_size, seed)
        requests = [
            Request(prompt_ids(text_to_image(*wh, text, layout), self.tokenizer), *wh, seed=one)
            for text, wh, one in asked
        ]
        drawn = self._draw(requests, settings, progress)
        images = [
            self._finish(result, text, one, settings)
            for result, (text, _, one) in zip(drawn, asked, strict=True)
        ]
        return images if is_list else images[0]

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Float32[B, S, V] of ids [B, S]. Raises ValueError for another shape or ids outside the vocabulary."""
        ids, size = np.asarray(ids), self.config.transformer.vocab_size
        if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"ids of {ids.dtype} {ids.shape}: want integers [sequences, tokens]")
        if ids.min() < 0 or ids.max() >= size:
            raise ValueError(f"ids from {ids.min()} to {ids.max()}: want 0 to {size - 1}")
        return np.asarray(
            _logits(self.params, jnp.asarray(ids, jnp.int32), self.config.transformer)
        )

    def encode_image(self, image: Picture, target_px: int | None = None) -> np.ndarray:
        """A PIL image, array or file as the int32 ids of an image sentence, from start to end token.

        It is cut to the allowed size nearest its shape, of about target_px² (default: the trained area), or in
        Chameleon's layout to the square itself.
        """
        config, vocab = self.config, self.tokenizer.vocab
        side_px, layout = target_px or config.target_px, config.image_layout
        pixels = fit_image(open_image(image), side_px, config.grid, layout=layout)
        codes = np.asarray(_encode(self.vqgan_params, pixels[None], config.vqgan))[0]
        return image_sentence(codes, vocab, config.grid, layout)

    def decode_image(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """An image sentence, start and end token included, as uint8[Y, X, 3]; ValueError where it breaks off."""
        config = self.config
        codes = parse_image(np.asarray(ids), self.tokenizer.vocab, config.grid, config.image_layout)
        return self._pixels(codes)

    def conversation_ids(
        self, record: Mapping[str, Any], target_px: int | None = None, root: str | Path = "."
    ) -> tuple[np.ndarray, np.ndarray]:
        """A conversation as (ids, labels), int32, -100 where nothing is predicted; image files lie under `root`."""

        def encode_reference(image: Any) -> np.ndarray:
            path = join(root, image) if isinstance(image, str | PathLike) else image
            return self.encode_image(path, target_px)

        return conversation_ids(record, self.tokenizer, encode_reference)  # type: ignore[arg-type]

    def _draw(
        self, requests: list[Request], settings: SampleConfig, progress: bool | Progress
    ) -> list[Generated]:
        if not isinstance(progress, bool):
            return generate(self.loaded, requests, settings, progress)
        if not progress:
            return generate(self.loaded, requests, settings)
        from tqdm import tqdm

        shapes = [job.plan.shape for job in prepare(self.loaded, requests, settings)]
        with tqdm(total=sum(p * q for p, q in shapes), unit="code", desc="painting") as bar:
            return generate(self.loaded, requests, settings, lambda row: bar.update(row.codes.size))

    def _finish(
        self, result: Generated, prompt: str, seed: int, settings: SampleConfig
    ) -> GeneratedImage:
        if result.codes is None:
            raise ValueError(
                f"seed {seed}: the free grammar wrote no readable image; try another seed or grammar='exact'"
            )
        config = self.config
        ids = image_sentence(result.codes, self.tokenizer.vocab, config.grid, config.image_layout)
        origin = prompt, seed, settings, self.checkpoint, self.precision
        return GeneratedImage(self._pixels(result.codes), ids, *origin)

    def _pixels(self, codes: np.ndarray) -> np.ndarray:
        return np.asarray(_decode(self.vqgan_params, codes[None], self.config.vqgan))[0]


def _check_trees(folder: Path, loaded: LoadedModel) -> None:
    """CheckpointError where the weights are not those that the config describes."""
    config = loaded.config
    wanted = {
        "transformer": abstract_params(replace(config.transformer, scan_layers=False)),
        "vqgan": abstract_vqgan(config.vqgan),
    }
    want, got = (
        {
            leaf_name(path): leaf.shape
            for path, leaf in tree_leaves_with_path(tree, is_leaf=is_stored)
        }
        for tree in (wanted, loaded.params)
    )
    odd = sorted(name for name in {*want, *got} if want.get(name) != got.get(name))
    if odd:
        raise CheckpointError(
            f"{folder}: {odd[0]} is {got.get(odd[0], 'missing')}, its config.json wants "
            f"{want.get(odd[0], 'none')}; fetch the folder again"
        )


def _own_settings(folder: Path, notes: Mapping[str, Any]) -> SampleConfig | None:
    """The sampling settings in a checkpoint's notes, None where there are none."""
    try:
        return config_from_dict(SampleConfig, notes["sample"]) if "sample" in notes else None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json: extra.sample: {error}") from None


def _broadcast(
    prompt: str | Sequence[str], size: Size | Sequence[Size], seed: int | Sequence[int]
) -> tuple[list[tuple[str, Size, int]], bool]:
    """(prompt, size, seed) of every image, and whether any of the three was a list."""
    one_size = isinstance(size[0], int | np.integer)
    singles = isinstance(prompt, str), one_size, isinstance(seed, int | np.integer)
    columns: list[list[Any]] = [
        [value] if single else list(value)  # type: ignore[arg-type]
        for value, single in zip((prompt, size, seed), singles, strict=True)
    ]
    lengths = [len(column) for column in columns]
    count = max(lengths)
    if any(length not in (1, count) for length in lengths):
        numbers = "{} prompts, {} sizes and {} seeds".format(*lengths)
        raise ValueError(f"{numbers}: want one each, or equally many")
    spread = [column * count if len(column) == 1 else column for column in columns]
    asked = [(text, tuple(wh), int(one)) for text, wh, one in zip(*spread, strict=True)]
    return asked, not all(singles)


@partial(jax.jit, static_argnames=("config",))
def _logits(params: Any, ids: Array, config: Any) -> Array:
    return forward(params, config, ids)[0]


@partial(jax.jit, static_argnames=("config",))
def _encode(params: Any, pixels: Array, config: VQGANConfig) -> Array:
    return encode(params, config, from_pixels(pixels))


@partial(jax.jit, static_argnames=("config",))
def _decode(params: Any, codes: Array, config: VQGANConfig) -> Array:
    return to_pixels(decode(params, config, codes))
