"""What the public scorers' loaders do with a folder, said again in our words: names, sizes, modes and order."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def load_geneval(folder: Path) -> dict[int, tuple[Any, list[np.ndarray]]]:
    """evaluate_images.py: folders named by digits, one JSON value in metadata.jsonl, images that are DIGITS.png."""
    found = {}
    for name in os.listdir(folder):
        if not (folder / name).is_dir() or not name.isdigit():
            continue
        metadata = json.loads((folder / name / "metadata.jsonl").read_text())
        names = sorted(os.listdir(folder / name / "samples"))
        assert all(re.match(r"\d+\.png", each) for each in names)
        images = [np.asarray(Image.open(folder / name / "samples" / each)) for each in names]
        found[int(name)] = metadata, images
    return found


def load_dpg(folder: Path, resolution: int, pic_num: int) -> dict[str, list[np.ndarray]]:
    """compute_dpg_bench.py: every file is an image of the prompt named up to the first dot; squares are cut out."""
    found = {}
    for name in os.listdir(folder):
        image = Image.open(folder / name)
        assert image.mode == "RGB"
        corners = [(0, 0), (resolution, 0), (0, resolution), (resolution, resolution)]
        boxes = [(x, y, x + resolution, y + resolution) for x, y in corners[:pic_num]]
        found[name.split(".")[0]] = [np.asarray(image.crop(box)) for box in boxes]
    return found


def load_compbench(folder: Path) -> list[tuple[int, str, np.ndarray]]:
    """BLIP_vqa.py, CLIP_similarity.py and UniDet: samples/ by the number behind "_", the prompt before it."""
    names = os.listdir(folder / "samples")
    names.sort(key=lambda name: int(name.split("_")[-1].split(".")[0]))
    assert names == sorted(names, key=lambda name: int(name.split("_")[1].split(".")[0]))
    return [
        (
            int(name.split(".png")[0].split("_")[1]),
            name.split("_")[0],
            np.asarray(Image.open(folder / "samples" / name).convert("RGB")),
        )
        for name in names
    ]
