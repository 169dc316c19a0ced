"""What a scene looks like to every dense task: labels as arrays, and the answer images drawn from them.

All take the camera of `render`; labels describe what that camera sees at the pixels' centres. Axes of normals and
depth are the camera's: x right, y down, z towards the viewer; depth 0 is the plane of the background's centre.
"""

from collections.abc import Callable

import numpy as np

from lumina_jax.data.scenes import geometry
from lumina_jax.data.scenes.geometry import Stamp
from lumina_jax.data.scenes.render import (
    SUPERSAMPLE,
    Canvas,
    Values,
    View,
    camera_matrix,
    frontal_canvas,
    paint,
    render,
    to_pixels,
)
from lumina_jax.data.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject
from lumina_jax.dims import Float, Int, UInt8, typed

Degrees = float | int
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in px, the last two exclusive

SEGMENT_RGB = {
    "background": (0, 0, 0),
    "dome": (220, 60, 60),
    "slab": (60, 120, 220),
    "pyramid": (240, 200, 60),
    "ring": (70, 180, 90),
    "cross": (150, 90, 210),
    "figure": (240, 240, 240),
    "gem": (60, 200, 210),
    "arch": (240, 130, 40),
}
DEPTH_RANGE = (-0.05, 0.16)  # scene units that depth images map to black and white; clipped beyond
BOX_RGB = (170, 255, 0)
BOX_PX = 3  # outline on a canvas of 128x128 px area, in proportion elsewhere
SAMPLES = 3  # samples a pixel side behind labels of a turned camera; the middle one is kept
BONES = {  # (from, to): colour
    ("head", "neck"): (240, 240, 240),
    ("left_shoulder", "right_shoulder"): (240, 200, 60),
    ("left_shoulder", "left_hand"): (220, 60, 60),
    ("right_shoulder", "right_hand"): (60, 120, 220),
    ("neck", "left_hip"): (150, 90, 210),
    ("neck", "right_hip"): (150, 90, 210),
    ("left_hip", "left_foot"): (240, 130, 40),
    ("right_hip", "right_foot"): (60, 200, 210),
}
BONE_RADIUS = 0.085  # half a bone's width, in radii of the figure


@typed
def instance_map(
    scene: Scene, width_px: int, height_px: int, yaw_deg: Degrees = 0, pitch_deg: Degrees = 0
) -> Int[np.ndarray, "Y X"]:
    """Index into `scene.objects` of the object seen at every pixel, -1 on the background."""
    found = _labels(scene, width_px, height_px, yaw_deg, pitch_deg, [-1.0], _index)
    return found[..., 0].astype(np.int32)


@typed
def depth_map(
    scene: Scene, width_px: int, height_px: int, yaw_deg: Degrees = 0, pitch_deg: Degrees = 0
) -> Float[np.ndarray, "Y X"]:
    """Position along the camera's axis in scene units, growing towards it (frontal: height over the background)."""
    if yaw_deg == 0 and pitch_deg == 0:
        return _labels(scene, width_px, height_px, 0, 0, [0.0], _height)[..., 0]
    view = View(scene, frontal_canvas(scene, width_px, height_px), yaw_deg, pitch_deg, SAMPLES)
    return view.depth[SAMPLES // 2 :: SAMPLES, SAMPLES // 2 :: SAMPLES]


@typed
def normal_map(
    scene: Scene, width_px: int, height_px: int, yaw_deg: Degrees = 0, pitch_deg: Degrees = 0
) -> Float[np.ndarray, "Y X 3"]:
    """Unit normal of the surface seen at every pixel."""
    found = _labels(scene, width_px, height_px, yaw_deg, pitch_deg, [0.0, 0.0, 1.0], _normal)
    return (found @ camera_matrix(yaw_deg, pitch_deg).T).astype(np.float32)


def boxes(
    scene: Scene, width_px: int, height_px: int, yaw_deg: Degrees = 0, pitch_deg: Degrees = 0
) -> list[Box | None]:
    """The box of each object's visible silhouette, or None where nothing of it is seen."""
    instances = instance_map(scene, width_px, height_px, yaw_deg, pitch_deg)
    found: list[Box | None] = []
    for index in range(len(scene.objects)):
        rows, columns = np.nonzero(instances == index)
        seen = len(rows) > 0
        found.append(
            (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
            if seen
            else None
        )
    return found


def keypoints(
    scene: Scene, width_px: int, height_px: int, yaw_deg: Degrees = 0, pitch_deg: Degrees = 0
) -> dict[int, dict[str, tuple[float, float]]]:
    """For each figure (by index) its joints in px: head, neck, and left and right shoulder, hand, hip, foot, left
    and right as seen from the front. A joint lies on the relief's surface and moves with it under the camera.
    """
    canvas = frontal_canvas(scene, width_px, height_px)
    matrix = camera_matrix(yaw_deg, pitch_deg)
    found = {}
    for index, item in enumerate(scene.objects):
        if item.shape == "figure" and item.pose is not None:
            joints = geometry.keypoints(item.pose)
            u, v = (np.array(c, np.float32) for c in zip(*joints.values(), strict=True))
            z = geometry.relief("figure", u, v, item.pose)[1] * item.radius
            points = matrix @ np.stack([item.x + u * item.radius, item.y + v * item.radius, z])
            x_px, y_px = (
                points[0] * canvas.side_px + canvas.x_px,
                points[1] * canvas.side_px + canvas.y_px,
            )
            found[index] = {
                name: (float(x), float(y)) for name, x, y in zip(joints, x_px, y_px, strict=True)
            }
    return found


def select(scene: Scene, phrase: str) -> tuple[int, ...]:
    """Indices of the objects that a phrase names: "the red dome", "small rings and the blue slab", "all objects".

    ValueError when it names no shape, colour or size, or nothing in the scene fits.
    """
    chosen: set[int] = set()
    for part in phrase.lower().replace(",", " and ").split(" and "):
        words = part.replace(".", " ").replace("?", " ").split()
        asked = [_mentioned(words, names) for names in (SHAPES, COLOURS, tuple(SIZES))]
        if any(asked) or any(word in ("all", "everything", "object", "objects") for word in words):
            looks = [(item.shape, item.colour, item.size) for item in scene.objects]
            chosen |= {
                index
                for index, look in enumerate(looks)
                if all(not names or name in names for names, name in zip(asked, look, strict=True))
            }
    if not chosen:
        raise ValueError(
            f"phrase {phrase!r} fits no object of the scene: name a shape, colour or size that is in it"
        )
    return tuple(sorted(chosen))


def segmentation(
    scene: Scene, width_px: int, height_px: int, yaw_deg: Degrees = 0, pitch_deg: Degrees = 0
) -> UInt8[np.ndarray, "Y X 3"]:
    """Answer image: every object in the colour of its shape (`SEGMENT_RGB`)."""
    return to_pixels(
        _picture(
            scene, width_px, height_px, yaw_deg, pitch_deg, SEGMENT_RGB["background"], _segment
        )
    )


def depth(
    scene: Scene, width_px: int, height_px: int, yaw_deg: Degrees = 0, pitch_deg: Degrees = 0
) -> UInt8[np.ndarray, "Y X 3"]:
    """Answer image: depth as grey, near is bright, `DEPTH_RANGE` from black to white."""
    if yaw_deg == 0 and pitch_deg == 0:
        found = _picture(scene, width_px, height_px, 0, 0, (0.0,), _height)
    else:
        view = View(
            scene, frontal_canvas(scene, width_px, height_px), yaw_deg, pitch_deg, SUPERSAMPLE
        )
        found = view.average(view.depth[..., None])
    far, near = DEPTH_RANGE
    return np.repeat(to_pixels((found - far) / (near - far) * 255), 3, axis=-1)


def normals(
    scene: Scene, width_px: int, height_px: int, yaw_deg: Degrees = 0, pitch_deg: Degrees = 0
) -> UInt8[np.ndarray, "Y X 3"]:
    """Answer image: the normal (x, y, z) as (red, green, blue), -1 to 1 over 0 to 255."""
    found = _picture(scene, width_px, height_px, yaw_deg, pitch_deg, (0.0, 0.0, 1.0), _normal)
    return to_pixels((found @ camera_matrix(yaw_deg, pitch_deg).T + 1) * 127.5)


def boxes_drawn(
    scene: Scene,
    width_px: int,
    height_px: int,
    phrase: str,
    yaw_deg: Degrees = 0,
    pitch_deg: Degrees = 0,
) -> UInt8[np.ndarray, "Y X 3"]:
    """Answer image: the picture with a box around every object that `phrase` names (see `select`)."""
    picture = render(scene, width_px, height_px, yaw_deg, pitch_deg)
    line = max(1, round(BOX_PX * (width_px * height_px) ** 0.5 / 128))
    found = boxes(scene, width_px, height_px, yaw_deg, pitch_deg)
    for index in select(scene, phrase):
        box = found[index]
        if box is not None:
            x0, y0 = (max(edge - line, 0) for edge in box[:2])
            x1, y1 = min(box[2] + line, width_px), min(box[3] + line, height_px)
            inside = picture[y0 + line : y1 - line, x0 + line : x1 - line].copy()
            picture[y0:y1, x0:x1] = BOX_RGB
            picture[y0 + line : y1 - line, x0 + line : x1 - line] = inside
    return picture


def pose(
    scene: Scene, width_px: int, height_px: int, yaw_deg: Degrees = 0, pitch_deg: Degrees = 0
) -> UInt8[np.ndarray, "Y X 3"]:
    """Answer image: the skeletons of the figures on black, each bone in its colour (`BONES`)."""
    columns, rows = np.meshgrid(
        np.arange(width_px, dtype=np.float32) + 0.5, np.arange(height_px, dtype=np.float32) + 0.5
    )
    picture = np.zeros((height_px, width_px, 3), np.float32)
    side_px = (width_px * height_px) ** 0.5
    for index, joints in keypoints(scene, width_px, height_px, yaw_deg, pitch_deg).items():
        radius_px = max(BONE_RADIUS * scene.objects[index].radius * side_px, 1.0)
        for (start, end), rgb in BONES.items():
            away = geometry.segment_distance(columns, rows, joints[start], joints[end])
            coverage = np.clip(radius_px - away + 0.5, 0, 1)[..., None]
            picture += coverage * (np.array(rgb, np.float32) - picture)
    return to_pixels(picture)


ANSWERS: dict[str, Callable[..., np.ndarray]] = {
    "segmentation": segmentation,
    "depth": depth,
    "normals": normals,
    "pose": pose,
}  # (scene, width_px, height_px, yaw_deg, pitch_deg) -> picture; `boxes_drawn` also needs a phrase


def _labels(
    scene: Scene,
    width_px: int,
    height_px: int,
    yaw: Degrees,
    pitch: Degrees,
    ground: list[float],
    values: Values,
) -> np.ndarray:
    """[Y, X, C] of what is seen at the pixels' centres, unblended."""
    canvas = frontal_canvas(scene, width_px, height_px)
    if yaw == 0 and pitch == 0:
        return paint(scene, canvas, _filled(canvas, ground), values, hard=True)
    view = View(scene, canvas, yaw, pitch, SAMPLES)
    painting = paint(scene, view.source, _filled(view.source, ground), values, hard=True)
    return view.samples(painting)[SAMPLES // 2 :: SAMPLES, SAMPLES // 2 :: SAMPLES]


def _picture(
    scene: Scene,
    width_px: int,
    height_px: int,
    yaw: Degrees,
    pitch: Degrees,
    ground: tuple[float, ...],
    values: Values,
) -> np.ndarray:
    """[Y, X, C] with soft edges."""
    canvas = frontal_canvas(scene, width_px, height_px)
    if yaw == 0 and pitch == 0:
        return paint(scene, canvas, _filled(canvas, ground), values)
    view = View(scene, canvas, yaw, pitch, SUPERSAMPLE)
    painting = paint(scene, view.source, _filled(view.source, ground), values)
    return view.average(view.samples(painting))


def _filled(canvas: Canvas, values: list[float] | tuple[float, ...]) -> np.ndarray:
    """[Y, X, C] of one value."""
    return np.tile(np.array(values, np.float32), (canvas.height, canvas.width, 1))


def _index(index: int, item: SceneObject, drawn: Stamp) -> np.ndarray:
    return np.array([index], np.float32)


def _height(index: int, item: SceneObject, drawn: Stamp) -> np.ndarray:
    return (drawn.height * item.radius)[..., None]


def _normal(index: int, item: SceneObject, drawn: Stamp) -> np.ndarray:
    return drawn.normal


def _segment(index: int, item: SceneObject, drawn: Stamp) -> np.ndarray:
    return np.array(SEGMENT_RGB[item.shape], np.float32)


def _mentioned(words: list[str], names: tuple[str, ...]) -> set[str]:
    """The names that occur among the words, in the singular or plural."""
    return {name for name in names if {name, name + "s", name + "es"} & set(words)}
