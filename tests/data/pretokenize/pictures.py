"""Pictures of every common kind, and inputs that are bad in every common way."""

import io
import json
import os
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from lumina_jax.data.images import draw_image
from lumina_jax.data.pretokenize.image_loading import Fit, Loaded, load_examples
from lumina_jax.data_config import ScenesSource

SOURCE = ScenesSource("scenes", 128, 4)
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "coins.png",
    "retina.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "camera.png",
    "ihc.png",
)
KINDS = ("jpeg", "png", "alpha", "palette", "webp", "grey", "cmyk", "rotated", "sixteen", "gif")


@cache
def photograph(name: str) -> Image.Image:
    """One that lies in scikit-image's wheel, at most 300 px wide and high, RGB."""
    import skimage

    image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    image.thumbnail((300, 300))
    return image


def scene(index: int, size: tuple[int, int] = (150, 100)) -> Image.Image:
    """One of Scenes."""
    return Image.fromarray(draw_image(SOURCE, index, size))


def encoded(image: Image.Image, kind: str) -> tuple[bytes, str]:
    """(content, suffix) of an RGB image as a file of one of KINDS."""
    stream = io.BytesIO()
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: upright after a quarter turn clockwise
        image.transpose(Image.Transpose.ROTATE_90).save(stream, "JPEG", quality=95, exif=exif)
        return stream.getvalue(), ".jpg"
    if kind == "alpha":
        ramp = np.linspace(0, 255, image.width).astype(np.uint8)
        image.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
    elif kind == "sixteen":
        grey = np.asarray(image.convert("L")).astype(np.uint16)
        image = Image.fromarray(grey * 256 + 77)
    changed = {"grey": "L", "cmyk": "CMYK", "palette": "P"}
    image = image.convert(changed[kind]) if kind in changed else image
    formats = {"jpeg": "JPEG", "cmyk": "JPEG", "grey": "JPEG", "webp": "WEBP", "gif": "GIF"}
    image.save(stream, formats.get(kind, "PNG"))
    suffix = {"JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif"}.get(formats.get(kind, ""), ".png")
    return stream.getvalue(), suffix


def jpeg(image: Image.Image) -> bytes:
    """An image as a JPEG."""
    return encoded(image, "jpeg")[0]


def load_or_die(examples: list, fit: Fit) -> list[Loaded]:
    """`load_examples` that example 11 kills, in a worker process."""
    if any(index == 11 for index, _ in examples):
        os._exit(1)
    return load_examples(examples, fit)


def bomb() -> bytes:
    """A PNG of some hundred bytes that says it has 40,000 x 40,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bad_lines(folder: Path) -> Iterator[tuple[str | bytes, str]]:
    """(line of JSON, pattern of its reason); the files that they name are written to `folder`."""
    yield "[1]", "a list, want an object"  # first: no sign of a list
    good = jpeg(scene(1))
    files = {
        "cut.jpg": good[: len(good) // 2],
        "cut.png": encoded(scene(2), "png")[0][:-400],
        "cut.webp": encoded(scene(2), "webp")[0][:300],
        "empty.png": b"",
        "bomb.png": bomb(),
        "text.jpg": b"<html>404 Not Found</html>",
        "vector.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "good.jpg": good,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    Image.new("RGB", (3000, 1)).save(folder / "line.png")
    (folder / "folder.png").mkdir()
    unreadable = ("cut.jpg", "cut.png", "cut.webp", "text.jpg", "vector.eps", "folder.png")
    reasons = {name: f"{name}: cannot be read as an image" for name in unreadable}
    reasons |= {"empty.png": "it is empty", "bomb.png": "bomb.png: more than 1000000 pixels"}
    reasons |= {"line.png": "too narrow", "absent.png": "no such file"}
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "x.png").write_bytes(files["good.jpg"])
    (folder / "sub").symlink_to(outside)
    (folder / "link.png").symlink_to(outside / "x.png")
    linked = "a link leads out of .*give --follow-links"
    reasons |= {"sub/x.png": linked, "link.png": linked}
    reasons |= {"../secret.png": "leads out of", "a/../../secret.png": "leads out of"}
    reasons |= {str(folder.parent / "secret.png"): "leads out of", "a\0b.png": "leads out of"}
    for name, reason in reasons.items():
        yield json.dumps({"image": name, "caption": "a thing"}), reason
    yield from _bad_records()


def _bad_records() -> Iterator[tuple[str | bytes, str]]:
    """What is wrong with the words rather than with the picture."""
    ask, answer = {"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}
    shown = {"from": "human", "value": "<|image|>"}

    def talk(*turns: object, **more: object) -> str:
        return json.dumps({"conversations": list(turns), **more})

    yield '{"conversations": [], "loss": NaN}', "NaN: no number"
    yield '{"conversations": [], "loss": -Infinity}', "Infinity: no number"
    yield '{"conversations": [], "loss": 1e999}', "1e999: no number"
    yield '{"conversations": [', "no JSON"
    yield "7", "a int, want an object"
    yield b'{"caption": "\xff"}', "no UTF-8"
    yield "[" * 100_000, "no JSON"
    yield talk(answer, ask), "turn 0: from 'gpt'"
    yield talk(ask, ask), "turn 1: from 'human'"
    yield talk(), "at least one turn"
    yield talk("hi"), "turn 0: want"
    yield json.dumps({"conversations": "hi"}), "must be a list"
    yield talk(shown, answer), "0 images"
    yield talk(shown, answer, image=["good.jpg", "good.jpg"]), "1 .* in the turns, 2 images"
    yield talk(ask, answer, image=7), "image: got 7"
    yield talk(ask, answer, image=[None]), r"image: got \[None\]"
    yield talk({"from": "human", "value": "\ud800"}, answer), "surrogates not allowed"
    yield json.dumps({"image": "good.jpg", "caption": " "}), "empty caption"
    yield json.dumps({"image": "good.jpg", "caption": 5}), "caption: got 5"
    yield json.dumps({"image": ["good.jpg"] * 2, "caption": "x"}), "2 images with a caption"
    yield json.dumps({"image": "good.jpg"}), "neither .*'image'.; choose --caption-field"
    yield json.dumps({"file": "good.jpg", "caption": "x"}), 'no "image" .*choose --image-field'
    yield json.dumps({"image": "good.jpg", "caption": "long words " * 200}), "tokens, at most 500"
