"""FID (Heusel et al. 2017) of folders of images, by torch-fidelity's InceptionV3 with weights on the user's disk.

The features, TensorFlow's resize before them, the statistics and the distance are the library's. Nothing is downloaded.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lumina_jax.image_files import open_image
from lumina_jax.official.extras import extra, file_digest, versions

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}
LAYER = "2048"  # of Inception: the pooled features that FID is defined by
LAYERS = ("64", "192", "768", LAYER)

Statistics = dict[str, np.ndarray]  # {"mu": [D], "sigma": [D, D]} float64


def image_paths(folder: str | Path) -> list[Path]:
    """The images of a folder and of the folders in it, by name; ValueError of one line where there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not found:
        raise ValueError(f"{folder}: no images there")
    return found


class Inception:
    """torch-fidelity's InceptionV3, which turns images into the features that FID compares."""

    def __init__(self, weights: str | Path, layer: str = LAYER, device: str = "cpu"):
        """`weights`: its weights-inception-2015-12-05-….pth; another `layer` than LAYER gives no FID in others' sense.

        Raises FileNotFoundError or ValueError of one line where the file holds other weights.
        """
        weights = Path(weights)
        if layer not in LAYERS:
            raise ValueError(f"layer {layer!r}: want one of {', '.join(LAYERS)}")
        if not weights.is_file():
            raise FileNotFoundError(f"{weights}: no weights of InceptionV3 there")
        self.torch, self.layer, self.device = extra("torch"), layer, device
        made = extra("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        try:
            self.torch.load(
                weights, map_location="cpu", weights_only=True
            )  # runs nothing of the file
            network = made("inception", [layer], feature_extractor_weights_path=str(weights))
        except Exception as error:  # torch raises its own kinds, of many lines
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{weights}: no weights of torch-fidelity's InceptionV3 ({reason})"
            ) from error
        self.network = network.to(device)
        self.settings = {
            "features": f"InceptionV3, layer {layer}",
            "resize": "299x299 px, bilinear as TensorFlow 1",
            "weights": {"name": weights.name, "sha256": file_digest(weights)},
            "versions": versions("torch-fidelity", "torch", "numpy", "pillow"),
        }

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """uint8[B, Y, X, 3] to float64[B, D]."""
        batch = self.torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        with self.torch.no_grad():
            (found,) = self.network(batch.to(self.device))
        return found.double().cpu().numpy()

    def of_files(
        self, paths: Sequence[Path], crop_px: int | None, batch: int, progress: bool = True
    ) -> np.ndarray:
        """float64[N, D] of image files, whatever their sizes."""
        from tqdm import tqdm

        found = []
        with tqdm(total=len(paths), unit="image", desc="features", disable=not progress) as bar:
            for pixels in _batches(paths, crop_px, batch):
                found.append(self.features(pixels))
                bar.update(len(pixels))
        return np.concatenate(found)

    def statistics(self, features: np.ndarray) -> Statistics:
        """Mean and covariance, as FID's reference files hold them; ValueError below two images."""
        if len(features) < 2:
            raise ValueError(
                f"{len(features)} image: FID wants at least 2, and thousands to mean something"
            )
        fid = extra("torch_fidelity.metric_fid")
        return fid.fid_features_to_statistics(self.torch.from_numpy(features))


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """The squared Fréchet distance of two Gaussians, by torch-fidelity."""
    for name in ("mu", "sigma"):
        if first[name].shape != second[name].shape:
            raise ValueError(
                f"{name} of {first[name].shape} and {second[name].shape}: want features of one layer"
            )
    fid = extra("torch_fidelity.metric_fid")
    return float(fid.fid_statistics_to_metric(first, second, False)[fid.KEY_METRIC_FID])


def read_statistics(path: str | Path) -> Statistics:
    """Reference statistics from an .npz file with mu and sigma, as pytorch-fid and others write it."""
    path = Path(path)
    try:
        with np.load(path) as stored:
            found = {name: np.asarray(stored[name], np.float64) for name in ("mu", "sigma")}
    except (KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: want an .npz file with mu and sigma ({error})") from None
    if found["mu"].ndim != 1 or found["sigma"].shape != 2 * found["mu"].shape:
        raise ValueError(f"{path}: mu of {found['mu'].shape}, sigma of {found['sigma'].shape}")
    return found


def fid(
    folder: str | Path,
    reference: str | Path,
    inception: Inception,
    *,
    crop_px: int | None = None,
    batch: int = 32,
    progress: bool = True,
) -> dict[str, Any]:
    """FID between a folder and another one or reference statistics (.npz), with all that decides it.

    `crop_px`: of folders the shorter side is scaled to this (Lanczos) and the middle square cut out first; None: images
    as they are, which Inception's resize squeezes to a square. Warns below as many images as features.
    """
    sources = [_opened(source) for source in (folder, reference)]  # both, before any work
    sides: list[Statistics] = []
    for place, source in zip((folder, reference), sources, strict=True):
        if isinstance(source, dict):
            sides.append(source)
            continue
        sides.append(inception.statistics(inception.of_files(source, crop_px, batch, progress)))
        if len(source) < sides[-1]["mu"].size:
            warnings.warn(
                f"{place}: {len(source)} images for {sides[-1]['mu'].size} features: FID is biased upwards",
                stacklevel=2,
            )
    numbers = [None if isinstance(source, dict) else len(source) for source in sources]
    return {
        "fid": frechet_distance(*sides),
        "num_images": numbers[0],
        "num_reference_images": numbers[1],
        "reference_sha256": None if numbers[1] else file_digest(reference),
        "crop_px": crop_px,
        **inception.settings,
    }


def _opened(source: str | Path) -> Statistics | list[Path]:
    """Reference statistics, or the images of a folder."""
    return read_statistics(source) if Path(source).suffix == ".npz" else image_paths(source)


def _batches(paths: Sequence[Path], crop_px: int | None, batch: int) -> Iterator[np.ndarray]:
    """uint8[B, Y, X, 3] of neighbouring files of one size, at most `batch` of them."""
    waiting: list[np.ndarray] = []
    for path in paths:
        image = open_image(path).convert("RGB")
        if crop_px is not None:
            image = ImageOps.fit(image, (crop_px, crop_px), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        if waiting and (len(waiting) == batch or waiting[0].shape != pixels.shape):
            yield np.stack(waiting)
            waiting = []
        waiting.append(pixels)
    yield np.stack(waiting)
