"""Pages of pictures: for a task's first examples what was shown and said, what the model answered, and the truth."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lumina_jax.contact_sheet import BACKGROUND, FONT_PX, INK, LINE_PX, MARGIN_PX, PALE_INK
from lumina_jax.evals.answering import Answer
from lumina_jax.evals.example import Example, Images
from lumina_jax.image_files import save_png
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER

ROWS = 8  # examples on a page
SCALE = 2  # of single pictures; several beside each other keep their size
TEXT_PX = 300  # most width of a column of words
LEAST_PX = 130  # least width of a column, which its label needs
GAP_PX = 4  # between pictures of one answer

Cell = tuple[str, Image.Image]  # a label, and what stands below it


def page(
    task: str, examples: Sequence[Example], given: Sequence[Answer], scores: Sequence[float]
) -> Image.Image:
    """Examples below each other, the first of every kind before others, every turn as: given, said, answer, truth."""
    rows = [_row(examples[place], given[place], scores[place]) for place in _shown(examples)]
    width = max(row.width for row in rows) + 2 * MARGIN_PX
    height = sum(row.height + MARGIN_PX for row in rows) + MARGIN_PX + 2 * LINE_PX
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    ImageDraw.Draw(sheet).text((MARGIN_PX, MARGIN_PX), task, INK, _font(FONT_PX + 5))
    top = MARGIN_PX + 2 * LINE_PX
    for row in rows:
        sheet.paste(row, (MARGIN_PX, top))
        top += row.height + MARGIN_PX
    return sheet


def save_page(sheet: Image.Image, path: Path) -> None:
    """Write a page as PNG."""
    save_png(sheet, path, {})


def _shown(examples: Sequence[Example]) -> list[int]:
    """The places of up to ROWS examples."""
    kinds = [example.kind for example in examples]
    first = [place for place, kind in enumerate(kinds) if kind not in kinds[:place]]
    others = [place for place in range(len(kinds)) if place not in first]
    return sorted([*first, *others][:ROWS])


def _row(example: Example, answer: Answer, score: float) -> Image.Image:
    """One example: the cells of its turns beside each other."""
    cells: list[Cell] = []
    for turn, own in zip(example.turns, answer.turns, strict=True):
        if turn.shown:
            cells.append(("given", _pictures(turn.shown)))
        cells.append(("said", _words(turn.said.replace(IMAGE_PLACEHOLDER, "").strip())))
        is_last = turn is example.turns[-1]
        label = f"answer · score {score:.2f}" if is_last else "answer"
        cells += [(label, _either(own)), ("truth", _either(turn.answer))]
    return _beside(cells)


def _either(content: str | Images) -> Image.Image:
    return _words(content or "(nothing)") if isinstance(content, str) else _pictures(content)


def _pictures(pictures: Images) -> Image.Image:
    """Pictures side by side; one alone enlarged without smoothing."""
    scale = SCALE if len(pictures) == 1 else 1
    images = [Image.fromarray(np.asarray(picture)) for picture in pictures]
    sizes = [(scale * image.width, scale * image.height) for image in images]
    width = sum(size[0] + GAP_PX for size in sizes) - GAP_PX
    sheet, left = Image.new("RGB", (width, max(size[1] for size in sizes)), BACKGROUND), 0
    for image, size in zip(images, sizes, strict=True):
        sheet.paste(image.resize(size, Image.Resampling.NEAREST), (left, 0))
        left += size[0] + GAP_PX
    return sheet


def _words(text: str) -> Image.Image:
    """Text in a column of its own."""
    columns = TEXT_PX * 2 // FONT_PX
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, columns) or [""]]
    width = max(LEAST_PX, *(int(_font(FONT_PX).getlength(line)) + 1 for line in lines))
    sheet = Image.new("RGB", (width, LINE_PX * len(lines)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, line in enumerate(lines):
        draw.text((0, index * LINE_PX), line, INK, _font(FONT_PX))
    return sheet


def _beside(cells: Sequence[Cell]) -> Image.Image:
    """Cells in a row, their labels above."""
    width = sum(cell.width + MARGIN_PX // 2 for _, cell in cells) + LEAST_PX
    sheet = Image.new("RGB", (width, LINE_PX + max(cell.height for _, cell in cells)), BACKGROUND)
    draw, left = ImageDraw.Draw(sheet), 0
    for label, cell in cells:
        draw.text((left, 0), label, PALE_INK, _font(FONT_PX))
        sheet.paste(cell, (left, LINE_PX))
        left += cell.width + MARGIN_PX // 2
    return sheet


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)
