"""Draw a scene: matte reliefs under one light, frontal or seen by a camera turned a little.

Everything drawn, here and in `maps`, is a `paint`: values on the background, covered by values on each object. A
turned camera sees the same painting warped along the height field, hidden parts removed.
"""

from collections.abc import Callable
from math import ceil, cos, floor, radians, sin, sqrt, tan
from typing import NamedTuple

import numpy as np

from lumina_jax.data.scenes.geometry import Stamp, segment_distance, stamp
from lumina_jax.data.scenes.scene import Scene, SceneObject
from lumina_jax.dims import UInt8, typed

COLOUR_RGB = {
    "red": (208, 44, 44),
    "orange": (232, 128, 24),
    "yellow": (228, 208, 48),
    "green": (52, 172, 60),
    "cyan": (44, 196, 204),
    "blue": (48, 92, 228),
    "purple": (136, 60, 204),
    "pink": (232, 116, 184),
    "white": (236, 236, 236),
}
BACKGROUND_RGB = {  # (top, bottom) of a vertical gradient
    "slate": ((78, 90, 108), (62, 72, 88)),
    "sand": ((174, 156, 122), (154, 136, 104)),
    "fog": ((128, 140, 146), (110, 122, 128)),
    "night": ((22, 28, 52), (36, 42, 70)),
    "moss": ((88, 102, 74), (70, 82, 58)),
    "clay": ((142, 106, 90), (122, 90, 76)),
}
LIGHT = np.array([-0.55, -0.60, 0.58], np.float32)  # unit vector towards the light: upper left
AMBIENT, DIFFUSE = 0.65, 0.45  # shade = AMBIENT + DIFFUSE * max(0, normal . LIGHT)
MAX_TURN_DEG = 20.0
SUPERSAMPLE = 2  # source and output samples a pixel side when the camera is turned
HIGHEST = 0.7  # greatest height of a relief, in radii

Values = Callable[
    [int, SceneObject, Stamp], np.ndarray
]  # -> [y, x, C], or [C] for the whole object


class Canvas(NamedTuple):
    """A raster over the scene: pixel [i, j] has its centre at ((j + 0.5, i + 0.5) - (x_px, y_px)) / side_px."""

    width: int
    height: int
    side_px: float  # pixels per scene unit
    x_px: float  # the scene's origin on the raster
    y_px: float


@typed
def render(
    scene: Scene,
    width_px: int,
    height_px: int,
    yaw_deg: float | int = 0,
    pitch_deg: float | int = 0,
) -> UInt8[np.ndarray, "Y X 3"]:
    """The picture of a scene. Raises ValueError when the canvas has another aspect or the camera turns too far.

    Orthographic camera: a point (x, y, z) appears at x' = x cos(yaw) + z sin(yaw), then y' likewise by pitch
    (`camera_matrix`).
    """
    canvas = frontal_canvas(scene, width_px, height_px)
    if yaw_deg == 0 and pitch_deg == 0:
        return to_pixels(paint(scene, canvas, background(scene, canvas), shaded))
    view = View(scene, canvas, yaw_deg, pitch_deg, SUPERSAMPLE)
    painting = paint(scene, view.source, background(scene, view.source), shaded)
    return to_pixels(view.average(view.samples(painting)))


def frontal_canvas(scene: Scene, width_px: int, height_px: int) -> Canvas:
    """The raster of the whole picture; ValueError unless its aspect is the scene's, to one pixel."""
    side_px = sqrt(width_px * height_px)
    if abs(scene.width * side_px - width_px) > 1 or abs(scene.height * side_px - height_px) > 1:
        raise ValueError(
            f"canvas of {width_px}x{height_px} px for a scene of {scene.width:.3f}x{scene.height:.3f} units: "
            "draw it at the aspect that it was sampled for"
        )
    return Canvas(width_px, height_px, side_px, width_px / 2, height_px / 2)


def background(scene: Scene, canvas: Canvas) -> np.ndarray:
    """float32 [Y, X, 3]: the background's gradient, constant beyond the picture's edges."""
    top, bottom = (np.array(rgb, np.float32) for rgb in BACKGROUND_RGB[scene.background])
    y = (np.arange(canvas.height, dtype=np.float32) + 0.5 - canvas.y_px) / canvas.side_px
    share = np.clip(y / scene.height + 0.5, 0, 1)[:, None]
    column = top + share * (bottom - top)
    return np.repeat(column[:, None], canvas.width, axis=1).astype(np.float32)


def shaded(index: int, item: SceneObject, drawn: Stamp) -> np.ndarray:
    """An object's colour under the light: `Values` of the picture itself."""
    return _shade(drawn)[..., None] * np.array(COLOUR_RGB[item.colour], np.float32)


def _shade(drawn: Stamp) -> np.ndarray:
    return AMBIENT + DIFFUSE * np.maximum(drawn.normal @ LIGHT, 0)


def paint(
    scene: Scene, canvas: Canvas, ground: np.ndarray, values: Values, hard: bool = False
) -> np.ndarray:
    """`ground` [Y, X, C] (changed in place) covered by `values` of every object, in painter's order.

    Edges are blended by coverage, or with `hard` belong to the object that covers half of the pixel.
    """
    for index, item in enumerate(scene.objects):
        drawn, rows, columns, inner = place(item, canvas)
        new = values(index, item, drawn)
        new = new[inner] if new.ndim == 3 else new
        coverage = drawn.coverage[inner][..., None]
        old = ground[rows, columns]
        ground[rows, columns] = (
            np.where(coverage >= 0.5, new, old) if hard else old + coverage * (new - old)
        )
    return ground


def place(item: SceneObject, canvas: Canvas) -> tuple[Stamp, slice, slice, tuple[slice, slice]]:
    """An object's stamp, the canvas' rows and columns under it, and the stamp's part that lies on the canvas."""
    x_px = item.x * canvas.side_px + canvas.x_px
    y_px = item.y * canvas.side_px + canvas.y_px
    drawn = stamp(item.shape, item.pose, item.radius * canvas.side_px, x_px, y_px)
    size = len(drawn.coverage)
    rows, inner_rows = _overlap(floor(y_px + 5e-4) - drawn.before, size, canvas.height)
    columns, inner_columns = _overlap(floor(x_px + 5e-4) - drawn.before, size, canvas.width)
    return drawn, rows, columns, (inner_rows, inner_columns)


def _overlap(start: int, size: int, length: int) -> tuple[slice, slice]:
    """Where `size` pixels from `start` lie within `length`, and which of them do."""
    low, high = max(start, 0), max(min(start + size, length), 0)
    low = min(low, high)
    return slice(low, high), slice(low - start, high - start)


def to_pixels(values: np.ndarray) -> np.ndarray:
    """Rounded and clipped to uint8."""
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def camera_matrix(yaw_deg: float, pitch_deg: float) -> np.ndarray:
    """[3, 3]: scene (x, y, z) to camera (x', y', z'), z' growing towards the camera.

    Positive yaw moves near points to the right, positive pitch moves them down. ValueError beyond MAX_TURN_DEG.
    """
    if max(abs(yaw_deg), abs(pitch_deg)) > MAX_TURN_DEG:
        raise ValueError(
            f"camera yaw {yaw_deg}, pitch {pitch_deg} degrees: want at most {MAX_TURN_DEG:g} either way"
        )
    yaw, pitch = radians(yaw_deg), radians(pitch_deg)
    turn = np.array([[cos(yaw), 0, sin(yaw)], [0, 1, 0], [-sin(yaw), 0, cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, cos(pitch), sin(pitch)], [0, -sin(pitch), cos(pitch)]])
    return tilt @ turn


class View:
    """What a turned camera sees: for every sample of the output, the point of the relief that its ray meets first.

    `source` is the frontal raster to paint; `average(samples(painting))` warps such a painting to the output;
    `depth` [rows, columns] is the camera's z at every sample, in scene units.
    """

    def __init__(
        self, scene: Scene, canvas: Canvas, yaw_deg: float, pitch_deg: float, supersample: int
    ) -> None:
        self.matrix = camera_matrix(yaw_deg, pitch_deg)
        self.supersample = supersample
        yaw, pitch = radians(yaw_deg), radians(pitch_deg)
        columns = np.arange(canvas.width * supersample, dtype=np.float32) + 0.5
        rows = np.arange(canvas.height * supersample, dtype=np.float32) + 0.5
        x, y = np.meshgrid(
            (columns / supersample - canvas.x_px) / canvas.side_px,
            (rows / supersample - canvas.y_px) / canvas.side_px,
        )
        # The ray through (x', y') meets height z at `ground + z * drift`.
        ground = np.stack([x / cos(yaw), y / cos(pitch) + x * tan(yaw) * tan(pitch)])
        drift = np.array([-tan(yaw), -tan(pitch) / cos(yaw)])
        reach = np.abs(ground).max(axis=(1, 2)) + _highest(scene) * np.abs(drift)
        scale = canvas.side_px * supersample
        half = [ceil(length * scale) + 2 for length in reach]
        self.source = Canvas(2 * half[0], 2 * half[1], scale, half[0], half[1])
        heights = paint(
            scene,
            self.source,
            np.zeros((2 * half[1], 2 * half[0], 1), np.float32),
            _height,
            hard=True,
        )
        fallen = self._first_hit(scene, heights[..., 0], ground, drift)
        x, y = ground + fallen * drift[:, None, None]
        self.rows, self.columns = self._index(x, y)
        z = heights[self.rows, self.columns, 0]
        self.depth = (self.matrix[2, 0] * x + self.matrix[2, 1] * y + self.matrix[2, 2] * z).astype(
            np.float32
        )

    def _index(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the source pixels that hold the points."""
        source = self.source
        return (
            np.floor(y * source.side_px + source.y_px).astype(np.int32),
            np.floor(x * source.side_px + source.x_px).astype(np.int32),
        )

    def _first_hit(
        self, scene: Scene, heights: np.ndarray, ground: np.ndarray, drift: np.ndarray
    ) -> np.ndarray:
        """Height at which each ray, coming down, first touches the relief; 0 on the background."""
        touched = np.zeros(ground.shape[1:], np.float32)
        highest = _highest(scene)
        near = np.zeros(ground.shape[1:], bool)
        for item in scene.objects:
            centre = (item.x, item.y)
            lowest_start = (item.x - highest * drift[0], item.y - highest * drift[1])
            near |= (
                segment_distance(ground[0], ground[1], lowest_start, centre) <= item.radius * 1.05
            )
        rows, columns = np.nonzero(near)
        x, y = ground[:, rows, columns].astype(np.float32)
        steps = ceil(highest * float(np.hypot(*drift)) * self.source.side_px * 2) + 1
        for z in np.linspace(highest, 0, steps, dtype=np.float32):
            below = heights[self._index(x + z * drift[0], y + z * drift[1])]
            hit = (below >= z) & (below > 0)
            touched[rows[hit], columns[hit]] = z
            rows, columns, x, y = rows[~hit], columns[~hit], x[~hit], y[~hit]
        return touched

    def samples(self, painting: np.ndarray) -> np.ndarray:
        """What a painting [Y, X, C] on `source` shows at every sample of the output."""
        return painting[self.rows, self.columns]

    def average(self, samples: np.ndarray) -> np.ndarray:
        """[Y, X, C] of the output: the mean over the samples of each pixel."""
        n = self.supersample
        rows, columns, channels = samples.shape
        return samples.reshape(rows // n, n, columns // n, n, channels).mean(axis=(1, 3))


def _highest(scene: Scene) -> float:
    """A height, in scene units, that no relief exceeds."""
    return HIGHEST * max((item.radius for item in scene.objects), default=0.0)


def _height(index: int, item: SceneObject, drawn: Stamp) -> np.ndarray:
    """Height above the background plane in scene units."""
    return (drawn.height * item.radius)[..., None]
