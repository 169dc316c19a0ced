"""Every task as a method: a picture or a prompt in, the answer's picture or text out; lists are answered in batches.

The prompts are those of `unirep.tasks`, in the spelling that the model learnt. What a caller does not name comes from
the task's row there; what paints from words alone takes the model's own settings.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lumina_jax.chat import Chat, Reply, task_settings, write_replies
from lumina_jax.data.recipes import VIEWS_YAW_DEG
from lumina_jax.painting import override, spread
from lumina_jax.sampling.generate import Progress
from lumina_jax.sampling.interleaved import AnswerRequest
from lumina_jax.token_model import Shown, Size, TokenModel
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.tasks import (
    TASKS,
    VIEW_SIZE,
    speaks_released,
    task_prompt,
    with_placeholders,
)


class TaskCall(NamedTuple):
    """One answer of a call."""

    prompt: str
    images: Sequence[np.ndarray]  # sentences
    size: Size | None  # of its images
    seed: int
    num_images: int = 1


class AnsweringModel(TokenModel):
    """A model that is asked by task.

    In every method each argument is one value or a list, and single values serve all of a list: then the result is a
    list. Pictures are PIL images, uint8 arrays, files, or tokens already (a GeneratedImage or ids), which are kept.
    `size`: (width, height) px of the answer; default: that of the picture after its crop. The same arguments give the
    same answer whatever else is in the list. `settings`: fields of SampleConfig. `progress`: a bar, or a function
    called with every `DrawnRow`. Raises ValueError of one line before anything is drawn.
    """

    def edit(
        self, image: Any, instruction: Any, size: Any = None, seed: Any = 0, **options: Any
    ) -> Any:
        """The picture, changed as the instruction says: GeneratedImage(s)."""
        return self._redraw("edit", image, size, seed, options, instruction=instruction)

    def segment(self, image: Any, size: Any = None, seed: Any = 0, **options: Any) -> Any:
        """What is where in the picture, as areas of colours: GeneratedImage(s)."""
        return self._redraw("segmentation", image, size, seed, options)

    def depth(self, image: Any, size: Any = None, seed: Any = 0, **options: Any) -> Any:
        """How far everything in the picture is, as grey: GeneratedImage(s)."""
        return self._redraw("depth", image, size, seed, options)

    def normals(self, image: Any, size: Any = None, seed: Any = 0, **options: Any) -> Any:
        """Where the surfaces in the picture face, as colours: GeneratedImage(s)."""
        return self._redraw("normals", image, size, seed, options)

    def pose(self, image: Any, size: Any = None, seed: Any = 0, **options: Any) -> Any:
        """The skeletons of the figures in the picture: GeneratedImage(s)."""
        return self._redraw("pose", image, size, seed, options)

    def detect(
        self, image: Any, phrase: Any, size: Any = None, seed: Any = 0, **options: Any
    ) -> Any:
        """The picture with a box around what the phrase names: GeneratedImage(s)."""
        return self._redraw("detection", image, size, seed, options, phrase=phrase)

    def generate_from(
        self, image: Any, caption: Any, size: Any = None, seed: Any = 0, **options: Any
    ) -> Any:
        """A new picture of the caption that obeys a map (segmentation, depth, normals, pose): GeneratedImage(s)."""
        return self._redraw("image_condition", image, size, seed, options, caption=caption)

    def views(
        self,
        prompt: str | Sequence[str],
        size: Any = None,
        seed: Any = 0,
        *,
        views: int | None = None,
        progress: bool | Progress = False,
        **settings: Any,
    ) -> Any:
        """The same object or scene from several sides: a list of GeneratedImages, a list of such lists for prompts.

        `views`: how many; default: `num_views`. `size`: of each; default: the paper's 384x384 px of a model with the
        released tokenizer, else the trained square.
        """
        count = self.num_views if views is None else views
        size = size or (VIEW_SIZE if speaks_released(self.tokenizer) else self.trained_size)
        columns = {
            "prompts": (prompt, isinstance(prompt, str)),
            "sizes": _size_column(size),
            "seeds": _seed_column(seed),
        }
        rows, is_list = spread(columns)
        calls = []
        for caption, (width, height), one_seed in rows:
            values = {"views": count, "width": width, "height": height, "caption": caption}
            text = task_prompt("multi_view", self.tokenizer, **values)
            calls.append(TaskCall(text, (), (width, height), int(one_seed), count))
        replies = self.ask("multi_view", calls, progress=progress, **settings)
        return [reply.images for reply in replies] if is_list else replies[0].images

    def answer(
        self,
        question: str | Sequence[str],
        images: Any = (),
        seed: Any = 0,
        *,
        max_tokens: int | None = None,
        **settings: Any,
    ) -> Any:
        """The answer to a question about pictures, or to any text: str, or list[str] for a list of questions or seeds.

        `images` of one question: a picture or a list of them. Of a list of questions: one picture for all, or a list
        with an entry a question, each a picture or a list of them. They stand where the question has <|image|>, else
        after its words.
        """
        alone = isinstance(question, str)
        per_question = not alone and _is_list(images) and len(images) > 0
        rows, is_list = spread(
            {
                "questions": (question, alone),
                "images": (images, not per_question),
                "seeds": _seed_column(seed),
            }
        )
        read = self._reader()
        calls = []
        for text, shown, one_seed in rows:
            sentences = [read(each) for each in (shown if _is_list(shown) else [shown])]
            said = with_placeholders(_filled(text), len(sentences))
            calls.append(TaskCall(said, sentences, None, int(one_seed)))
        replies = self.ask("question", calls, max_tokens=max_tokens, **settings)
        return [reply.text for reply in replies] if is_list else replies[0].text

    def describe(
        self, image: Any, seed: Any = 0, *, max_tokens: int | None = None, **settings: Any
    ) -> Any:
        """What the picture shows, in words: str, or list[str] for a list of pictures or seeds."""
        rows, is_list = spread({"images": _column(image), "seeds": _seed_column(seed)})
        read, prompt = self._reader(), task_prompt("describe", self.tokenizer)
        calls = [TaskCall(prompt, [read(each)], None, int(one_seed)) for each, one_seed in rows]
        replies = self.ask("describe", calls, max_tokens=max_tokens, **settings)
        return [reply.text for reply in replies] if is_list else replies[0].text

    def chat(self, seed: int = 0, **settings: Any) -> Chat:
        """A conversation, empty yet: `Chat.send` says a turn, `Chat.draw` asks for a picture."""
        return Chat(self, seed, **settings)

    @property
    def num_views(self) -> int:
        """How many views an answer has unless told otherwise.

        The paper's 16 with the released tokenizer; else 4, as in the training data of this project.
        """
        released = TASKS["multi_view"].num_answer_images
        return released if speaks_released(self.tokenizer) else len(VIEWS_YAW_DEG)

    def ask(
        self,
        task: str,
        calls: Sequence[TaskCall],
        *,
        max_tokens: int | None = None,
        progress: bool | Progress = False,
        **settings: Any,
    ) -> list[Reply]:
        """Every answer to the prompts of one task, of the kind that its row in `TASKS` tells."""
        row = TASKS[task]
        self.check_task(task)
        chosen = override(task_settings(row, self.settings, self.by_task), settings)
        requests = [
            AnswerRequest(
                prompt_ids(call.prompt, self.tokenizer, call.images, np.asarray),
                row.answer,
                call.size,
                call.num_images,
                call.seed,
                chosen,
                max_tokens,
            )
            for call in calls
        ]
        prompts = [call.prompt for call in calls]
        return write_replies(self, requests, prompts, {"task": task}, progress)

    def check_task(self, task: str) -> None:
        """Raise ValueError of one line where a model of this layout cannot have learnt a task."""
        if self.config.image_layout == "chameleon" and TASKS[task].answer == "image":
            raise ValueError(
                f"task {task!r} on a model of Chameleon's layout, which was never taught it: want a model of the "
                "uni_rep layout, such as 'scenes'; answer, describe and chat work with this one"
            )

    def _redraw(
        self, task: str, image: Any, size: Any, seed: Any, options: dict[str, Any], **values: Any
    ) -> Any:
        """The answer image(s) to picture(s), with the template's blanks filled by `values`."""
        self.check_task(task)
        columns = {
            "images": _column(image),
            "sizes": _size_column(size),
            "seeds": _seed_column(seed),
            **{f"{name}s": (value, isinstance(value, str)) for name, value in values.items()},
        }
        rows, is_list = spread(columns)
        read = self._reader()
        calls = []
        for shown, one_size, one_seed, *filled in rows:
            ids = read(shown)
            said = dict(zip(values, filled, strict=True))
            prompt = task_prompt(task, self.tokenizer, **said)
            asked = tuple(one_size) if one_size is not None else self.image_size(ids)
            calls.append(TaskCall(prompt, [ids], asked, int(one_seed)))
        images = [reply.images[0] for reply in self.ask(task, calls, **options)]
        return images if is_list else images[0]

    def _reader(self) -> Callable[[Shown], np.ndarray]:
        """`image_ids` that reads each object once."""
        known: dict[int, np.ndarray] = {}

        def read(shown: Shown) -> np.ndarray:
            if id(shown) not in known:
                known[id(shown)] = self.image_ids(shown)
            return known[id(shown)]

        return read


def _column(shown: Any) -> tuple[Any, bool]:
    return shown, not _is_list(shown)


def _size_column(size: Any) -> tuple[Any, bool]:
    return size, size is None or isinstance(size[0], int | np.integer)


def _seed_column(seed: Any) -> tuple[Any, bool]:
    return seed, isinstance(seed, int | np.integer)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _filled(question: str) -> str:
    if not question.strip():
        raise ValueError("empty question: say what to answer")
    return question
