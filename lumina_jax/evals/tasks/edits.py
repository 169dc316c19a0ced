"""Edits: is the change seen that was asked for, and is everything else as it was? Read by the detector alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lumina_jax.data.scenes.detector import DetectedObject, Detection, detect
from lumina_jax.data.scenes.edits import LEAST_MOVE
from lumina_jax.data.scenes.scene import Scene, SceneObject
from lumina_jax.dims import pick
from lumina_jax.evals.intervals import ratio, share
from lumina_jax.evals.tasks.common import (
    PLACE_TOLERANCE,
    Size,
    Summary,
    Truth,
    check_size,
    looks_like,
    near,
    pairs,
)

SAME_PLACE = 0.06  # scene units within which an object that changes its look, or goes, is held to be the same
NO_EDIT = "none"  # the kind of an instruction that asks for no change
SPARING = ("remove", "background")  # kinds that a picture without objects would obey


class EditScore(NamedTuple):
    """`score`: whether the asked change is seen; what else became of the picture stands beside it."""

    score: bool
    kind: str
    kept: int  # untouched objects that are still there with their shape, colour and place
    untouched: int
    background_kept: bool  # True where the background was to change
    extra: int  # objects seen beyond those that the result has

    @property
    def all_right(self) -> bool:
        """Whether the change is made, all else is kept and nothing has come beside it."""
        return (
            self.score and self.kept == self.untouched and self.background_kept and not self.extra
        )


class _Change(NamedTuple):
    """An edit's objects before and after it (None where it has none), what is seen, and the whole scenes."""

    old: SceneObject | None
    new: SceneObject | None
    seen: Detection
    after: Scene
    size: Size


def score_edit(truth: Truth, answer: np.ndarray) -> EditScore:
    """What the detector sees in a picture against the scenes before and after an edit of `kind`.

    A move is right when its object is gone from its place and seen, once, further along the asked way by at least
    half of `edits.LEAST_MOVE` and not off it by more than half of that: the instruction names no distance. Changes of
    a SPARING kind want one untouched object seen at least, for a destroyed picture is no edit.
    """
    check_size(answer, truth.size)
    if truth.before is None:
        raise ValueError(f"edit {truth.kind!r}: a truth without the scene before it")
    asked = pick(_ASKED, truth.kind, "kind of edit")
    before, after = truth.before.objects, truth.scene.objects
    old = [thing for thing in before if thing not in after]
    new = [thing for thing in after if thing not in before]
    seen = detect(answer)
    first_old, first_new = (next(iter(some), None) for some in (old, new))
    change = _Change(first_old, first_new, seen, truth.scene, truth.size)
    rest = [thing for thing in before if thing in after]
    kept = pairs([[_there(o, s, truth.size) for s in seen.objects] for o in rest])
    spared = truth.kind not in SPARING or not rest or bool(kept)
    return EditScore(
        bool(asked(change)) and spared,
        truth.kind,
        len(kept),
        len(rest),
        truth.kind == "background" or seen.background == truth.before.background,
        max(len(seen.objects) - len(after), 0),
    )


def summarise_edits(results: Sequence[EditScore]) -> Summary:
    """Success over all and by kind; what was kept, of untouched objects and of backgrounds."""
    kinds = dict.fromkeys(each.kind for each in results)
    return {
        "metric": "edit success",
        **share([each.score for each in results]),
        "higher_is_better": True,
        "kinds": {k: share([each.score for each in results if each.kind == k]) for k in kinds},
        "preserved": ratio([each.kept for each in results], [each.untouched for each in results]),
        "background_kept": share([each.background_kept for each in results]),
        "all_right": share([each.all_right for each in results]),
        "extra": ratio([each.extra for each in results], [1] * len(results)),
    }


def _there(thing: SceneObject, seen: DetectedObject, size: Size) -> bool:
    """Whether a seen object is `thing`: shape, colour and place."""
    return looks_like(thing, seen) and near(thing, seen, size, PLACE_TOLERANCE)


def _recoloured(change: _Change) -> bool:
    """The new look is at the place, the old look is not."""
    old, new = change.old, change.new
    return (
        old is not None
        and new is not None
        and any(_at(new, s, change) and looks_like(new, s) for s in change.seen.objects)
        and not any(_at(old, s, change) and looks_like(old, s) for s in change.seen.objects)
    )


def _moved(change: _Change) -> bool:
    """The only object of the look is plainly further along the way."""
    old, new = change.old, change.new
    if old is None or new is None:
        return False
    found = [s for s in change.seen.objects if looks_like(new, s)]
    if len(found) != 1:
        return False
    side_px = (change.size[0] * change.size[1]) ** 0.5
    x = (found[0].x_px - change.size[0] / 2) / side_px - old.x
    y = (found[0].y_px - change.size[1] / 2) / side_px - old.y
    sideways = abs(new.x - old.x) > abs(new.y - old.y)
    along, across = (x, y) if sideways else (y, x)
    sign = np.sign(new.x - old.x if sideways else new.y - old.y)
    return bool(sign * along >= LEAST_MOVE / 2 and abs(across) <= LEAST_MOVE / 2)


def _removed(change: _Change) -> bool:
    """No object of the look is left, nor anything at its place."""
    old = change.old
    return old is not None and not any(
        looks_like(old, s) or _at(old, s, change) for s in change.seen.objects
    )


def _added(change: _Change) -> bool:
    """One object of the new look, wherever: the instruction names no place."""
    new = change.new
    return new is not None and sum(looks_like(new, s) for s in change.seen.objects) == 1


def _background_changed(change: _Change) -> bool:
    return change.seen.background == change.after.background


def _unchanged(change: _Change) -> bool:
    """All objects, no others, and the background."""
    objects, seen = change.after.objects, change.seen.objects
    kept = pairs([[_there(o, s, change.size) for s in seen] for o in objects])
    return len(kept) == len(objects) == len(seen) and _background_changed(change)


def _at(thing: SceneObject, seen: DetectedObject, change: _Change) -> bool:
    """Whether something is seen at an object's place."""
    return near(thing, seen, change.size, SAME_PLACE)


_ASKED: dict[str, Callable[[_Change], bool]] = {
    "recolour": _recoloured,
    "reshape": _recoloured,
    "move": _moved,
    "remove": _removed,
    "add": _added,
    "background": _background_changed,
    NO_EDIT: _unchanged,
}
