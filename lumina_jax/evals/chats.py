"""Questions at the end of a chat that the words alone answer: a picture painted from a caption, then changed.

The picture is the model's own, so nothing may be asked that the caption and the instruction leave open.
"""

import numpy as np

from lumina_jax.data.scenes.captions import Look, caption, noun
from lumina_jax.data.scenes.edits import Edit
from lumina_jax.data.scenes.questions import Question, questions
from lumina_jax.data.scenes.scene import Scene, SceneObject

CHAT_KINDS = ("recolour", "reshape", "remove", "add", "background")  # of edits, asked about in turn
CAPTIONS = 20  # tried for one that names all colours
DRAWS = 500  # of questions, among which the one about the edit is looked for


def telling_caption(scene: Scene, rng: np.random.Generator) -> str | None:
    """A caption that names the colour of every object; None where none of a few does."""
    for _ in range(CAPTIONS):
        text = caption(scene, rng)
        if all(thing.colour in text for thing in scene.objects):
            return text
    return None


def question_after(
    scene: Scene, change: Edit, rng: np.random.Generator, yes: bool = True
) -> Question | None:
    """A question about what an edit changed, answered by a caption that names all colours, and the instruction.

    `scene`: before the edit. recolour: the object's new colour; reshape: its new shape; background: which it is; add
    and remove: whether an object is there, with the answer yes or no as asked for. None where the words leave it open.
    """
    after = change.scene
    was, now = _only_in(scene, after), _only_in(after, scene)
    if change.kind == "background":
        return _asked(after, rng, "background", after.background)
    if change.kind == "recolour":
        return _asked(after, rng, "colour", now[0].colour, f"the {now[0].shape}?")
    if change.kind == "reshape":
        return _asked(after, rng, "shape", now[0].shape, f"the {now[0].colour} object?")
    if change.kind == "add":
        return _asked(after, rng, "existence", *(("yes", _named(now[0])) if yes else ("no",)))
    if change.kind == "remove":
        return _asked(after, rng, "existence", *(("yes",) if yes else ("no", _named(was[0]))))
    return None


def _only_in(scene: Scene, other: Scene) -> list[SceneObject]:
    """The objects of a scene that another one has not."""
    return [thing for thing in scene.objects if thing not in other.objects]


def _named(thing: SceneObject) -> str:
    return f"{noun(Look(thing.shape, thing.colour))}?"


def _asked(
    scene: Scene, rng: np.random.Generator, kind: str, answer: str, about: str = ""
) -> Question | None:
    """A question of a kind with an answer, about what its words name; None where the scene has none."""
    for _ in range(DRAWS):
        for found in questions(scene, rng):
            if (found.kind, found.answer) == (kind, answer) and about in found.question:
                return found
    return None
