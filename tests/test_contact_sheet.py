"""The labelled sheet."""

import numpy as np
import pytest

from lumina_jax.config import SampleConfig
from lumina_jax.contact_sheet import DEFAULT_REQUESTS, MARGIN_PX, contact_sheet
from lumina_jax.generated_image import GeneratedImage


def painted(width: int, height: int, grey: int, prompt: str) -> GeneratedImage:
    pixels = np.full((height, width, 3), grey, np.uint8)
    return GeneratedImage(pixels, np.zeros(1, np.int32), prompt, 3, SampleConfig(), "0" * 12)


def test_sheet_holds_every_image_at_its_place() -> None:
    sheet = np.asarray(contact_sheet([painted(40, 30, 90, "a"), painted(20, 50, 160, "b")], 2))
    for grey, shape, left, top in ((90, (60, 80), 24, 24 + 20), (160, (100, 40), 24 + 80 + 24, 24)):
        part = sheet[top : top + shape[0], left : left + shape[1]]
        assert (part == grey).all()
        assert (sheet == grey).all(-1).sum() >= part.shape[0] * part.shape[1]
    assert sheet.shape[1] == 80 + 40 + 3 * MARGIN_PX


def test_sheet_labels_every_image() -> None:
    blank = np.asarray(contact_sheet([painted(90, 60, 255, "")]))
    short = np.asarray(contact_sheet([painted(90, 60, 255, "a dome")]))
    long = np.asarray(contact_sheet([painted(90, 60, 255, "a dome and a ring " * 4)]))
    assert (blank < 200).any()  # size and seed
    assert blank.shape < short.shape < long.shape
    assert (short < 200).sum() < (long < 200).sum()


def test_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        contact_sheet([])


def test_default_requests_show_four_prompts_at_four_shapes() -> None:
    prompts, sizes = zip(*DEFAULT_REQUESTS, strict=True)
    assert len(set(prompts)) == 4
    assert sizes == ((128, 128), (160, 96), (96, 160), (96, 128))
