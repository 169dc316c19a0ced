"""Several images side by side on one sheet, each with its prompt, size and seed below."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from lumina_jax.generated_image import GeneratedImage

DEFAULT_REQUESTS = (  # prompt, (width, height) px: one of each shape of image
    ("a photo of a red dome to the left of a blue ring", (128, 128)),
    ("three green pyramids on sand", (160, 96)),
    ("a yellow cross above a purple slab", (96, 160)),
    ("a large orange ring and a cyan dome at night", (96, 128)),
)
MARGIN_PX = 24
FONT_PX = 15
LINE_PX = 20
BACKGROUND, INK, PALE_INK = "#ffffff", "#1d1d1f", "#6e6e73"


def contact_sheet(images: Sequence[GeneratedImage], scale: int = 2) -> Image.Image:
    """One row of images, each enlarged `scale` times without smoothing, labels below."""
    if not images:
        raise ValueError("contact sheet of no images: want at least one")
    font = ImageFont.load_default(FONT_PX)
    widths = [image.size[0] * scale for image in images]
    labels = [_label(image, width) for image, width in zip(images, widths, strict=True)]
    tallest = max(image.size[1] * scale for image in images)
    text_px = LINE_PX * max(map(len, labels))
    size = (sum(widths) + MARGIN_PX * (len(images) + 1), tallest + text_px + 3 * MARGIN_PX)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw, left = ImageDraw.Draw(sheet), MARGIN_PX
    for image, width, lines in zip(images, widths, labels, strict=True):
        height = image.size[1] * scale
        top = MARGIN_PX + (tallest - height) // 2
        sheet.paste(image.image.resize((width, height), Image.Resampling.NEAREST), (left, top))
        for index, line in enumerate(lines):
            ink = PALE_INK if index == len(lines) - 1 else INK
            place = (left, 2 * MARGIN_PX + tallest + index * LINE_PX)
            draw.text(place, line, fill=ink, font=font)
        left += width + MARGIN_PX
    return sheet


def _label(image: GeneratedImage, width_px: int) -> list[str]:
    """The prompt in lines that fit below the image, then its size and seed."""
    num_columns = max(12, width_px * 2 // FONT_PX)
    return [
        *textwrap.wrap(image.prompt, num_columns)[:6],
        "{}x{} px · seed {}".format(*image.size, image.seed),
    ]
