"""Pictures on disk: opened with clear errors, written whole or not at all, with their origin in the PNG's metadata."""

import io
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from lumina_jax.paths import as_path, check_writable, is_remote, make_folder, write_bytes

Picture = Image.Image | np.ndarray | str | Path


def open_image(picture: Picture) -> Image.Image:
    """A picture as PIL: an image as it is, uint8 [Y, X], [Y, X, 3] or [Y, X, 4], or a file turned upright by its EXIF.

    Raises FileNotFoundError or ValueError of one line for anything else.
    """
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, np.ndarray):
        channels_fit = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))
        if picture.dtype != np.uint8 or not channels_fit or picture.size == 0:
            raise ValueError(
                f"image array of {picture.dtype} {picture.shape}: want uint8 [Y, X, 3] (or [Y, X], [Y, X, 4])"
            )
        return Image.fromarray(picture)
    path = as_path(picture)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    try:
        with Image.open(_opened(path)) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error


def read_mask(mask: Picture, size: tuple[int, int]) -> np.ndarray:
    """A mask for a picture of `size` (width, height) as bool[Y, X], True where it is white; or a bool array.

    Raises ValueError of one line for another size and where nothing is white.
    """
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        mask = Image.fromarray(mask.astype(np.uint8) * 255)
    picture = open_image(mask)
    if picture.size != size:
        sizes = "{}x{} px for a picture of {}x{} px".format(*picture.size, *size)
        raise ValueError(f"mask of {sizes}: want the same size")
    white = np.asarray(picture.convert("L")) >= 128
    if not white.any():
        raise ValueError("mask: nothing of it is white; white is what is painted anew")
    return white


def save_png(image: Image.Image, path: str | Path, metadata: Mapping[str, str]) -> Path:
    """Write a PNG with `metadata` as UTF-8 text chunks; a reader sees the old file or the new one, never half."""
    path = as_path(path)
    make_folder(path.parent)
    write_bytes(path, png_bytes(image, metadata))
    return path


def png_bytes(image: Image.Image, metadata: Mapping[str, str]) -> bytes:
    """The content of a PNG with `metadata` as UTF-8 text chunks; the same image gives the same bytes."""
    notes = PngInfo()
    for key, text in metadata.items():
        notes.add_itxt(key, text)
    stream = io.BytesIO()
    image.save(stream, format="PNG", pnginfo=notes)
    return stream.getvalue()


def picture_name(index: int, prompt: str, digits: int = 2) -> str:
    """ "02-a-red-dome.png": a place in a list and the first words of a prompt, at most 104 bytes."""
    words = re.findall(r"\w+", prompt.lower())[:8]
    stem = "-".join([f"{index:0{digits}d}", *words])
    return stem.encode()[:100].decode(errors="ignore") + ".png"


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text chunks of a PNG: the inverse of `save_png`'s `metadata`."""
    with Image.open(_opened(as_path(path))) as image:
        image.load()
        return {key: str(text) for key, text in getattr(image, "text", {}).items()}


def check_png_path(path: str | Path) -> None:
    """Raise one line unless a PNG can be written at `path`; makes its folder. Call it before any long work."""
    path = as_path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: images are written as PNG; want a name that ends in .png")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; want a file name that ends in .png")
    check_folder(path.parent)


def check_folder(folder: str | Path) -> None:
    """Raise OSError of one line unless files can be written in `folder`; makes it."""
    folder = as_path(folder)
    if is_remote(folder):
        check_writable(folder)
        return
    try:
        make_folder(folder)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"{folder}: cannot write there ({error.strerror}); choose another place"
        ) from error


def _opened(path: Path) -> Path | io.BytesIO:
    """A local file as it is, the content of one in a bucket."""
    return io.BytesIO(path.read_bytes()) if is_remote(path) else path
