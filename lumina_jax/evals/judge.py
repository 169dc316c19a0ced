"""Whether a picture shows what its prompt asks, by GenEval's rules (arXiv 2310.11513) on what the detector saw."""

from collections.abc import Sequence
from itertools import product
from math import hypot

from lumina_jax.data.scenes.detector import UNKNOWN, DetectedObject, Detection
from lumina_jax.evals.prompts import Include, Prompt

POSITION_TOLERANCE = 0.1  # share of both widths by which an offset must exceed zero [GenEval]
LEAST_SHARE = 0.5  # of the whole offset that must lie along the relation's axis [GenEval]


def judge(prompt: Prompt, detection: Detection) -> bool:
    """Whether everything that the prompt asks is seen.

    - Every `include` has at least `count` objects of its shape, and of its colour where it names one.
    - No object of a shape whose colour was named shows a colour that was not (GenEval looks only at the `count`
      surest objects; here all must agree).
    - `exact`: no more objects of the shape than asked.
    - `relation`: it holds between every two objects that the two includes match, by `relations_of`.
    - Objects with an unknown shape or colour never count, and other objects do no harm, as in GenEval.
    """
    known = [o for o in detection.objects if UNKNOWN not in (o.shape, o.colour)]
    groups = [_matching(want, known) for want in prompt.include]
    if any(len(found) < want.count for want, found in zip(prompt.include, groups, strict=True)):
        return False
    if prompt.exact and any(
        sum(o.shape == want.shape for o in known) != want.count for want in prompt.include
    ):
        return False
    if any(_wrongly_coloured(prompt.include, o) for o in known):
        return False
    if prompt.relation is None:
        return True
    first, where, second = prompt.relation
    return all(where in relations_of(a, b) for a, b in product(groups[first], groups[second]))


def exactly_as_asked(prompt: Prompt, detection: Detection) -> bool:
    """`judge`, and nothing else is seen: no further object, known or unknown. Reported beside the score."""
    asked = sum(want.count for want in prompt.include)
    return len(detection.objects) == asked and judge(prompt, detection)


def relations_of(first: DetectedObject, second: DetectedObject) -> set[str]:
    """Where `first` lies as seen from `second`: none, one, or on a diagonal two of scene.RELATIONS.

    GenEval's rule: offsets of the centres, shortened by a tenth of both widths together, count where they are more
    than half of the whole offset.
    """
    dx, dy = first.x_px - second.x_px, first.y_px - second.y_px
    whole = hypot(dx, dy)
    slack = POSITION_TOLERANCE * 2 * (first.radius_px + second.radius_px)
    found = set()
    for along, before, after in ((dx, "left of", "right of"), (dy, "above", "below")):
        if whole > 0 and max(abs(along) - slack, 0) / whole > LEAST_SHARE:
            found.add(before if along < 0 else after)
    return found


def _matching(want: Include, objects: Sequence[DetectedObject]) -> list[DetectedObject]:
    """The objects of the wanted shape, and colour where one is named."""
    return [o for o in objects if o.shape == want.shape and want.colour in (None, o.colour)]


def _wrongly_coloured(include: Sequence[Include], thing: DetectedObject) -> bool:
    """Whether a shape was asked for in colours of which the object has none."""
    colours = {want.colour for want in include if want.shape == thing.shape}
    return bool(colours) and None not in colours and thing.colour not in colours
