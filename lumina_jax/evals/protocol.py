"""The fixed examples that a model of every task is scored on: held-out scenes, what is asked, and the true answers.

Example i of a task is a pure function of (task, i): its scene is drawn from (HELD_OUT_SEED, i, task), a seed that no
training source may have, without reserved shapes and colours, which the transformer was never shown. Pairs of looks
that training leaves out (`scene.held_out`) are allowed, as a user's pictures may hold them. Sizes are SIZES_PX in turn.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Literal

import numpy as np

from lumina_jax.data.recipes import MAPS, VIEWS_YAW_DEG
from lumina_jax.data.scenes.captions import Look, caption, noun
from lumina_jax.data.scenes.edits import EDIT_KINDS, Edit, edits
from lumina_jax.data.scenes.maps import boxes_drawn
from lumina_jax.data.scenes.questions import QUESTION_KINDS, questions
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import Scene, sample_scene
from lumina_jax.data_config import HELD_OUT_SEED
from lumina_jax.dims import pick
from lumina_jax.evals.chats import CHAT_KINDS, question_after, telling_caption
from lumina_jax.evals.example import Example, Turn
from lumina_jax.evals.painted import prompts_of, scene_of_prompt
from lumina_jax.evals.prompts import CATEGORIES, SIZES_PX, Prompt
from lumina_jax.evals.tasks.common import Size, Truth
from lumina_jax.unirep.tasks import TASKS

VERSION = 2  # of the protocol: scores of different versions cannot be compared
NUM_EXAMPLES = 100
MOST_EXAMPLES = 1000  # of each kind; those after them are for choosing settings
KINDS = {  # of examples, in turn, of tasks that are told apart by them; `num` is of each
    "text_to_image": len(CATEGORIES),
    "image_condition": len(MAPS),
    "question": len(QUESTION_KINDS),
    "edit": len(EDIT_KINDS),
    "next_edit": len(EDIT_KINDS),
}
ATTEMPTS = 10_000  # scenes tried for one example
FORMS = {  # answers wanted of a kind of question, in turn: "yes", "no", or by name
    "existence": ("yes", "no"),
    **dict.fromkeys(("position", "comparison", "background"), ("name", "yes", "name", "no")),
}


def examples(
    task: str, num: int = NUM_EXAMPLES, purpose: Literal["score", "choose"] = "score"
) -> list[Example]:
    """The first examples of a task, `num` of each of its KINDS: a pure function, and the beginning of more.

    Kinds come in turn. Those to "choose" settings on are none of those to score. Raises ValueError for an unknown task,
    for none, and for more than MOST_EXAMPLES.
    """
    make = pick(EXAMPLES, task, "task")
    if not 1 <= num <= MOST_EXAMPLES:
        raise ValueError(f"{num} examples of {task}: want 1 to {MOST_EXAMPLES}")
    first = MOST_EXAMPLES if purpose == "choose" else 0
    kinds = KINDS.get(task, 1)
    return [make(task, index) for index in range(first * kinds, (first + num) * kinds)]


def example_rng(task: str, index: int) -> np.random.Generator:
    """The generator of one example: three numbers like those of a training record, the first of which none has."""
    return np.random.default_rng((HELD_OUT_SEED, index, zlib.crc32(f"protocol {task}".encode())))


def size_of(index: int) -> Size:
    """(width, height) px of example `index`."""
    return SIZES_PX[index % len(SIZES_PX)]


def _scene(rng: np.random.Generator, size: Size, kind: str | None = None) -> Scene:
    return sample_scene(rng, *size, kind=kind, allow_held_out=True)


def _first(make: Callable[[], Example | None], task: str, index: int) -> Example:
    """The first of what `make` makes that is not None."""
    for _ in range(ATTEMPTS):
        if (found := make()) is not None:
            return found
    raise ValueError(f"example {index} of {task}: no scene for it among {ATTEMPTS}")


def prompt_in_turn(index: int) -> Prompt:
    """The next prompt of the next category; at the next size, or where its sentence comes again at one it had not."""
    turn, place = divmod(index, len(CATEGORIES))
    num = (turn // NUM_EXAMPLES + 1) * NUM_EXAMPLES  # few lists, however many prompts
    prompts = prompts_of(num)[place * num :][: turn + 1]
    same = [at for at, prompt in enumerate(prompts) if prompt.text == prompts[turn].text]
    width_px, height_px = size_of(same[0] * len(CATEGORIES) + place + len(same) - 1)
    return replace(prompts[turn], width_px=width_px, height_px=height_px)


def _categories_in_turn(task: str, index: int) -> Example:
    """A prompt of the six categories, with one of the scenes that it describes."""
    prompt = prompt_in_turn(index)
    size = prompt.width_px, prompt.height_px
    scene = scene_of_prompt(prompt, example_rng(task, index))
    values = {"width": size[0], "height": size[1], "caption": prompt.text}
    said = TASKS[task].prompt(**{name: values[name] for name in TASKS[task].fields})
    turn = Turn(task, said, (), (render(scene, *size),))
    truth = Truth(scene, size, kind=prompt.category, caption=prompt.text)
    return Example(index, (turn,), truth, prompt)


def _views(task: str, index: int) -> Example:
    """A caption, and the scene from every camera."""
    size, rng = size_of(index), example_rng(task, index)
    scene = _scene(rng, size)
    words = caption(scene, rng)
    values = {"width": size[0], "height": size[1], "caption": words}
    said = TASKS[task].prompt(views=len(VIEWS_YAW_DEG), **values)
    answer = tuple(render(scene, *size, yaw) for yaw in VIEWS_YAW_DEG)
    return Example(index, (Turn(task, said, (), answer),), Truth(scene, size, caption=words))


def _condition(task: str, index: int) -> Example:
    """The maps in turn; of skeletons scenes with one figure."""
    size, rng = size_of(index), example_rng(task, index)
    kind = list(MAPS)[index % len(MAPS)]
    scene = _with_one_figure(rng, size) if kind == "pose" else _scene(rng, size)
    words = caption(scene, rng)
    said = TASKS[task].prompt(caption=words)
    turn = Turn(task, said, (MAPS[kind](scene, *size),), (render(scene, *size),))
    return Example(index, (turn,), Truth(scene, size, kind=kind, caption=words))


def _map(task: str, index: int) -> Example:
    """A render, and its map; a pose of scenes with one figure."""
    size, rng = size_of(index), example_rng(task, index)
    scene = _with_one_figure(rng, size) if task == "pose" else _scene(rng, size)
    shown, answer = (render(scene, *size),), (MAPS[task](scene, *size),)
    return Example(index, (Turn(task, TASKS[task].template, shown, answer),), Truth(scene, size))


def _detection(task: str, index: int) -> Example:
    """An object whose name no other of the scene has."""
    size, rng = size_of(index), example_rng(task, index)

    def make() -> Example | None:
        scene = _scene(rng, size)
        thing = scene.objects[int(rng.integers(len(scene.objects)))]
        looks = [(other.colour, other.shape) for other in scene.objects]
        if looks.count((thing.colour, thing.shape)) > 1:
            return None
        phrase = noun(Look(thing.shape, thing.colour), article="the")
        shown, answer = (render(scene, *size),), (boxes_drawn(scene, *size, phrase),)
        turn = Turn(task, TASKS[task].prompt(phrase=phrase), shown, answer)
        return Example(index, (turn,), Truth(scene, size, phrase=phrase))

    return _first(make, task, index)


def _describe(task: str, index: int) -> Example:
    """A render, and one of the sentences that are true of it."""
    size, rng = size_of(index), example_rng(task, index)
    scene = _scene(rng, size)
    turn = Turn(task, TASKS[task].template, (render(scene, *size),), caption(scene, rng))
    return Example(index, (turn,), Truth(scene, size))


def _question(task: str, index: int) -> Example:
    """The kinds in turn, and of each the FORMS of its answers in turn."""
    size, rng = size_of(index), example_rng(task, index)
    kind = list(QUESTION_KINDS)[index % len(QUESTION_KINDS)]
    forms = FORMS.get(kind, ("name",))
    form = forms[index // len(QUESTION_KINDS) % len(forms)]

    def make() -> Example | None:
        scene = _scene(rng, size)
        for asked in questions(scene, rng):
            if asked.kind == kind and _form(asked.answer) == form:
                said = TASKS[task].prompt(question=asked.question)
                turn = Turn(task, said, (render(scene, *size),), asked.answer)
                return Example(index, (turn,), Truth(scene, size, kind=kind, answer=asked.answer))
        return None

    return _first(make, task, index)


def _edit(task: str, index: int) -> Example:
    """The kinds in turn: one edit, or as "next_edit" the second of two, the first of any kind."""
    size, rng = size_of(index), example_rng(task, index)
    kind = list(EDIT_KINDS)[index % len(EDIT_KINDS)]

    def make() -> Example | None:
        scene, turns = _scene(rng, size), ()
        if task == "next_edit":
            possible = edits(scene, rng, _side_px(size))
            if not possible:
                return None
            first = possible[int(rng.integers(len(possible)))]
            turns = (_change("edit", first, size, scene),)
            scene = first.scene
        change = _edit_of(scene, rng, size, kind)
        if change is None:
            return None
        turns += (_change(task, change, size, scene),)
        return Example(index, turns, Truth(change.scene, size, before=scene, kind=kind))

    return _first(make, task, index)


def _chat(task: str, index: int) -> Example:
    """A picture is painted from words, changed, and asked about; the words alone tell the true answer."""
    size, rng = size_of(index), example_rng(task, index)
    kind = CHAT_KINDS[index % len(CHAT_KINDS)]
    yes = index // len(CHAT_KINDS) % 2 == 0

    def make() -> Example | None:
        scene = _scene(rng, size, str(rng.choice(["single", "two"])))
        change = _edit_of(scene, rng, size, kind)
        words = telling_caption(scene, rng)
        asked = None if change is None else question_after(scene, change, rng, yes)
        if change is None or words is None or asked is None:
            return None
        values = {"width": size[0], "height": size[1], "caption": words}
        said = TASKS["text_to_image"].prompt(**values)
        turns = (
            Turn("text_to_image", said, (), (render(scene, *size),)),
            _change("next_edit", change, size, scene),
            Turn(task, TASKS[task].prompt(message=asked.question), (), asked.answer),
        )
        truth = Truth(change.scene, size, before=scene, kind=asked.kind, answer=asked.answer)
        return Example(index, turns, truth)

    return _first(make, task, index)


def _change(task: str, change: Edit, size: Size, scene: Scene) -> Turn:
    """An edit of `scene`, which an "edit" shows and a later turn does not."""
    shown = (render(scene, *size),) if task == "edit" else ()
    said = TASKS[task].prompt(instruction=change.instruction)
    return Turn(task, said, shown, (render(change.scene, *size),))


def _edit_of(scene: Scene, rng: np.random.Generator, size: Size, kind: str) -> Edit | None:
    """The scene's edit of a kind, None where it allows none."""
    return next((edit for edit in edits(scene, rng, _side_px(size)) if edit.kind == kind), None)


EXAMPLES: dict[str, Callable[[str, int], Example]] = {  # (task, index)
    "text_to_image": _categories_in_turn,
    "text_to_image_any_size": _categories_in_turn,
    "multi_view": _views,
    "image_condition": _condition,
    **dict.fromkeys(MAPS, _map),
    "detection": _detection,
    "describe": _describe,
    "question": _question,
    "edit": _edit,
    "next_edit": _edit,
    "chat": _chat,
}


def _with_one_figure(rng: np.random.Generator, size: Size) -> Scene:
    while True:
        scene = _scene(rng, size)
        if sum(thing.shape == "figure" for thing in scene.objects) == 1:
            return scene


def _form(answer: str) -> str:
    return answer if answer in ("yes", "no") else "name"


def _side_px(size: Size) -> float:
    return sqrt(size[0] * size[1])
