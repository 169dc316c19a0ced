"""What a VQGAN keeps of a picture: PSNR and SSIM of renders and answers, and whether the detector reads the same."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import hypot, log10, sqrt
from typing import Any

import jax
import numpy as np

from lumina_jax.config import VQGANConfig
from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.detector import UNKNOWN, Detection, detect
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import Scene, sample_scene
from lumina_jax.data_config import HELD_OUT_SEED
from lumina_jax.dims import Array
from lumina_jax.evals.intervals import mean, share
from lumina_jax.evals.prompts import SIZES_PX
from lumina_jax.evals.tasks.common import PLACE_TOLERANCE, Summary
from lumina_jax.vqgan.codec import decode, encode, from_pixels, to_pixels

PERFECT_DB = 99.0  # stands for the PSNR of equal pictures
SSIM = {  # Wang et al. 2004: Gaussian weights of 1.5 px, the moments of the whole population
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
    "data_range": 255,
    "channel_axis": -1,
}
SSIM_WINDOW_PX = 11  # the smallest side of an image that SSIM is taken of

Reconstruct = Callable[[np.ndarray], np.ndarray]  # uint8[Y,X,3] -> uint8[Y,X,3]


def reconstruction_scores(
    reconstruct: Reconstruct, num_images: int = 300, progress: bool = True
) -> dict[str, Any]:
    """Scores of `num_images` held-out scenes over SIZES_PX, half of them with reserved shapes and colours.

    {"psnr_db": {"render": …, each answer: …} (the mean over images with its interval), "ssim": the same,
    "read_as_original": the share of renders that the detector reads as the same, with its interval}
    """
    from tqdm import tqdm

    decibels: dict[str, list[float]] = {}
    similar: dict[str, list[float]] = {}
    same = []
    for scene, size in tqdm(held_out_scenes(num_images), total=num_images, disable=not progress):
        for name, picture in pictures(scene, size):
            output = reconstruct(picture)
            decibels.setdefault(name, []).append(psnr_db(picture, output))
            similar.setdefault(name, []).append(ssim(picture, output))
            if name == "render":
                same.append(
                    reads_the_same(detect(picture), detect(output), sqrt(size[0] * size[1]))
                )
    return {
        "psnr_db": {name: mean(values) for name, values in decibels.items()},
        "ssim": {name: mean(values) for name, values in similar.items()},
        "read_as_original": share(same),
    }


def summarised(found: Mapping[str, Any]) -> Summary:
    """`reconstruction_scores` as the summary of a task."""
    return {
        "metric": "read as the original",
        **found["read_as_original"],
        "higher_is_better": True,
        "psnr_db": found["psnr_db"],
        "ssim": found["ssim"],
    }


def held_out_scenes(num_images: int) -> Iterator[tuple[Scene, tuple[int, int]]]:
    """Scenes that no training source draws, each with its (width, height) px."""
    for index in range(num_images):
        rng = np.random.default_rng((HELD_OUT_SEED, index))
        size = SIZES_PX[index % len(SIZES_PX)]
        yield sample_scene(rng, *size, reserved=index % 2 == 1, allow_held_out=True), size


def pictures(scene: Scene, size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """The render and every answer image of a scene, by name; a pose only where there is a figure."""
    yield "render", render(scene, *size)
    for name, answer in maps.ANSWERS.items():
        if name != "pose" or scene.has_figure:
            yield name, answer(scene, *size)
    thing = scene.objects[0]
    yield "boxes", maps.boxes_drawn(scene, *size, f"{thing.colour} {thing.shape}")


def psnr_db(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal to noise ratio of two uint8 images."""
    error = float(np.mean(np.square(first.astype(np.float64) - second.astype(np.float64))))
    return PERFECT_DB if error == 0 else min(PERFECT_DB, 10 * log10(255**2 / error))


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two uint8[Y, X, 3] by Wang et al. (2004), the mean over pixels and colours."""
    from skimage.metrics import structural_similarity

    height, width, _ = first.shape
    if min(height, width) < SSIM_WINDOW_PX:
        raise ValueError(f"image of {width}x{height} px: SSIM wants {SSIM_WINDOW_PX} px each side")
    found: Any = structural_similarity(first, second, **SSIM)
    return float(found)


def reads_the_same(first: Detection, second: Detection, side_px: float) -> bool:
    """Whether two pictures are read as the same background and objects, in the same places."""
    if first.background != second.background or len(first.objects) != len(second.objects):
        return False
    left = list(second.objects)
    for thing in first.objects:
        near = [
            other
            for other in left
            if (other.shape, other.colour) == (thing.shape, thing.colour)
            and UNKNOWN not in (thing.shape, thing.colour)
            and hypot(other.x_px - thing.x_px, other.y_px - thing.y_px) <= PLACE_TOLERANCE * side_px
        ]
        if not near:
            return False
        left.remove(near[0])
    return True


def vqgan_round_trip(params: Mapping[str, Any], config: VQGANConfig) -> Reconstruct:
    """Pixels to codes and back, compiled once a size."""
    through = codes_and_pixels(params, config)
    return lambda picture: through(picture[None])[1][0]


def codes_and_pixels(
    params: Mapping[str, Any], config: VQGANConfig
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """uint8[B, Y, X, 3] -> (codes int[B, P, Q], the pixels that come back), compiled once a shape."""
    params = jax.tree.map(lambda leaf: leaf.astype("float32"), dict(params))

    def through(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes, output = _round_trip(params, pixels, config)
        return np.asarray(codes), np.asarray(output)

    return through


def table(found: Mapping[str, Any]) -> str:
    """The scores as lines of text."""
    read: Mapping[str, Any] = found["read_as_original"]
    alike: Mapping[str, Any] = found["ssim"]
    lines = []
    for name, decibels in dict(found["psnr_db"]).items():
        interval = f"[{decibels['low']:.2f}, {decibels['high']:.2f}]"
        lines.append(
            f"{name:14} {decibels['score']:.2f} dB {interval}  SSIM {alike[name]['score']:.4f}"
        )
    share = f"{read['score']:.3f}  [{read['low']:.3f}, {read['high']:.3f}]  {read['n']} images"
    return "\n".join([*lines, f"{'read the same':14} {share}"])


@partial(jax.jit, static_argnames="config")
def _round_trip(params: Any, pixels: Array, config: VQGANConfig) -> tuple[Array, Array]:
    codes = encode(params, config, from_pixels(pixels))
    return codes, to_pixels(decode(params, config, codes))
