"""A painted image with its origin: prompt, seed, settings and the digest of the model."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from lumina_jax.config import SampleConfig
from lumina_jax.image_files import check_png_path, save_png


@dataclass(frozen=True, eq=False)
class GeneratedImage:
    """A painted image and all that is needed to paint it again."""

    pixels: np.ndarray  # uint8[Y, X, 3]
    ids: np.ndarray  # int32: the image sentence from start to end token
    prompt: str
    seed: int
    settings: SampleConfig
    checkpoint: str  # digest of the model
    notes: Mapping[str, str] = field(default_factory=dict)  # what else made it, for `metadata`
    precision: str | None = None  # a row of model.precision.PRECISIONS; None: the model's own

    @property
    def image(self) -> Image.Image:
        """The pixels as a PIL image."""
        return Image.fromarray(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) px."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def metadata(self) -> dict[str, str]:
        """What `save` writes beside the pixels; settings as JSON."""
        return {
            "prompt": self.prompt,
            "seed": str(self.seed),
            "size": "{}x{}".format(*self.size),
            "settings": json.dumps(asdict(self.settings)),
            "checkpoint": self.checkpoint,
            **self.notes,
            **({"precision": self.precision} if self.precision else {}),
        }

    def save(self, path: str | Path) -> Path:
        """Write a PNG that carries `metadata` as text chunks; `image_files.read_metadata` reads them back."""
        check_png_path(path)
        return save_png(self.image, path, self.metadata)
