"""Pictures of the embedded dataset: image i of a source is a pure function of (source, i), kept in shards.

Only numpy is imported here, so the processes that draw start at once.
"""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from lumina_jax.config import GridConfig
from lumina_jax.data.same_code import SAME_CODE
from lumina_jax.data.shards import (
    default_workers,
    finish,
    folder_to_fill,
    in_processes,
    is_complete,
    missing_shards,
    shard_name,
    shard_range,
    share,
    write_shard,
)
from lumina_jax.data_config import ScenesSource

IMAGES_PER_SHARD = 512
DRAWN_BY = ("data/scenes/*.py", "data/images.py")  # the code that decides what a picture shows
ANSWER_MAPS = ("segmentation", "depth", "normals", "pose", "boxes")


def source_sizes(source: ScenesSource, grid: GridConfig) -> list[tuple[int, int]]:
    """The (width, height) px a source draws: its list, or every allowed crop up to its ratio."""
    from lumina_jax.unirep.grid import crop_sizes

    if source.sizes:
        return list(source.sizes)
    crops = crop_sizes(source.target_px, grid)
    return [size for size in crops if max(size) <= source.max_ratio * min(size)]


def record_rng(source: ScenesSource, index: int, purpose: str) -> np.random.Generator:
    """The generator of one record and purpose: the scene does not change when captions draw more numbers."""
    return np.random.default_rng((source.seed, index, zlib.crc32(purpose.encode())))


def draw_image(source: ScenesSource, index: int, size: tuple[int, int]) -> np.ndarray:
    """uint8[Y,X,3]: the render of scene `index`, or for a share `source.answers` one of its answer images."""
    from lumina_jax.data.scenes.render import render
    from lumina_jax.data.scenes.scene import sample_scene

    width_px, height_px = size
    scene = sample_scene(
        record_rng(source, index, "scene"), width_px, height_px, reserved=source.reserved
    )
    rng = record_rng(source, index, "answer")
    if rng.random() >= source.answers:
        return render(scene, width_px, height_px)
    return _answer_image(scene, width_px, height_px, rng)


def ensure_images(
    source: ScenesSource, grid: GridConfig, data_dir: str | Path, num_workers: int = 0
) -> Path:
    """The folder of a source's drawn images; draws what is missing, with a progress bar."""
    from tqdm import tqdm

    sizes = source_sizes(source, grid)
    name = f"{source.name}-images-{source_digest(source, sizes)}"
    folder = folder_to_fill(data_dir, name)
    if is_complete(folder):
        return share(folder, data_dir, name)
    num_shards = -(-source.num_records // IMAGES_PER_SHARD)
    missing = missing_shards(folder, num_shards)
    arguments = [(source, sizes, folder, shard, num_shards) for shard in missing]
    title = f"drawing {source.name}"
    with tqdm(total=source.num_records, desc=title, unit="image") as bar:
        bar.update(source.num_records - sum(_count(source, s, num_shards) for s in missing))
        for shard in in_processes(_write_images, arguments, default_workers(num_workers)):
            bar.update(_count(source, shard, num_shards))
    finish(folder, source.num_records, {"sizes": sizes})
    return share(folder, data_dir, name)


def unpack_image(record: bytes) -> np.ndarray:
    """The inverse of `pack_image`."""
    height, width = np.frombuffer(record, np.uint16, 2)
    return np.frombuffer(record, np.uint8, offset=4).reshape(height, width, 3)


def pack_image(image: np.ndarray) -> bytes:
    """Height and width as uint16, then the pixels."""
    return np.array(image.shape[:2], np.uint16).tobytes() + image.tobytes()


def source_digest(source: ScenesSource, sizes: list[tuple[int, int]], *more: str) -> str:
    """12 hex digits that change with the source, the sizes, the code that draws, and `more`."""
    fields = {k: v for k, v in dataclasses.asdict(source).items() if k not in ("name", "crop_px")}
    content = json.dumps([fields, sizes, digest_of_code(*DRAWN_BY), *more], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


@cache
def digest_of_code(*patterns: str) -> str:
    """12 hex digits of the package's files that match: what older code made is not taken for the new code's.

    Code that is known to make the same (`same_code`) has the digest of the older.
    """
    package = Path(__file__).parents[1]
    files = sorted(file for pattern in patterns for file in package.glob(pattern))
    found = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    return SAME_CODE.get(found, found)


def _count(source: ScenesSource, shard: int, num_shards: int) -> int:
    return len(shard_range(shard, num_shards, source.num_records))


def _write_images(
    source: ScenesSource, sizes: list[tuple[int, int]], folder: Path, shard: int, num_shards: int
) -> int:
    def records() -> Iterator[bytes]:
        for index in shard_range(shard, num_shards, source.num_records):
            yield pack_image(draw_image(source, index, sizes[index % len(sizes)]))

    write_shard(folder / shard_name(shard, num_shards), records())
    return shard


def _answer_image(scene, width_px: int, height_px: int, rng: np.random.Generator) -> np.ndarray:
    from lumina_jax.data.scenes import maps

    kinds = [kind for kind in ANSWER_MAPS if scene.has_figure or kind != "pose"]
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "boxes":
        chosen = scene.objects[int(rng.integers(len(scene.objects)))]
        return maps.boxes_drawn(scene, width_px, height_px, f"{chosen.colour} {chosen.shape}")
    return getattr(maps, kind)(scene, width_px, height_px)
