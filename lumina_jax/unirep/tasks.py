"""Every prompt the model is taught, and how its answer is best drawn (Lumina-mGPT's demos and paper, figures 9-11)."""

import string
from dataclasses import dataclass
from typing import Literal

from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER
from lumina_jax.unirep.text import ReleasedTokenizer, TextTokenizer

VIEW_SIZE = (384, 384)  # px: of every view of the paper


@dataclass(frozen=True)
class Task:
    """One kind of request. `{fields}` of the template are filled by `prompt`; placeholders stand for images."""

    template: str
    answer: Literal["image", "text"] = "image"
    num_answer_images: int = 1  # when the answer is an image
    guidance: float = 1.0  # 1 is off: the demos' value for every task that shows the model an image
    temperature: float = 1.0
    image_top_k: int = 200  # the demos' value for every task that shows the model an image
    text_top_k: int = 5
    released: str = ""  # the template that the released models learnt, where it is another

    @property
    def num_images(self) -> int:
        """How many input images the template holds."""
        return self.template.count(IMAGE_PLACEHOLDER)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the template's blanks, in order."""
        return tuple(name for _, name, _, _ in string.Formatter().parse(self.template) if name)

    @property
    def paints(self) -> bool:
        """Whether it paints from words alone: then a checkpoint's own settings are made for it."""
        return self.answer == "image" and "caption" in self.fields and not self.num_images

    @property
    def tells_size(self) -> bool:
        """Whether its words tell the size of the images of its answer; true where that holds none."""
        return self.answer == "text" or {"width", "height"} <= {*self.fields}

    def prompt(self, is_released: bool = False, /, **values: object) -> str:
        """The template with its blanks filled; ValueError when a value is missing, unknown or empty.

        `is_released`: for a released model (`speaks_released`), in the words that it learnt.
        """
        if set(values) != set(self.fields):
            given = ", ".join(values) or "nothing"
            raise ValueError(
                f"prompt {self.template!r}: want {', '.join(self.fields) or 'nothing'}, got {given}"
            )
        for name, value in values.items():
            if not str(value).strip():
                raise ValueError(f"prompt {self.template!r}: {name} is empty")
        template = self.released if is_released and self.released else self.template
        return template.format(**values)

    def matches(self, prompt: str) -> bool:
        """Whether a prompt is the template, ours or the released one, with the blanks filled."""
        templates = [self.template, *([self.released] if self.released else [])]
        return any(_is_filled(template, prompt) for template in templates)


TASKS = {
    "text_to_image": Task(
        "Generate an image of {width}x{height} according to the following prompt:\n{caption}",
        guidance=4.0,
        image_top_k=2000,
    ),
    "text_to_image_any_size": Task(
        "Generate an image according to the following prompt:\n{caption}",
        guidance=4.0,
        image_top_k=2000,
    ),
    "multi_view": Task(
        "Generate {views} object views of {width}x{height} according to the following prompt: {caption}",
        num_answer_images=16,  # the paper's number of views
        guidance=4.0,
        image_top_k=2000,
    ),
    "image_condition": Task(
        "Generate an image according to the provided image, and according to the following caption:\n"
        "{caption} <|image|>"
    ),
    "segmentation": Task(
        "Semantic segmentation. <|image|>",
        released="Segmentic segmentation. <|image|>",  # the original's demo, the spelling included
    ),
    "depth": Task("Depth estimation. <|image|>"),
    "normals": Task("Surface normal estimation. <|image|>"),
    "pose": Task("Human pose estimation. <|image|>"),
    "detection": Task("Detect: {phrase} <|image|>"),
    "describe": Task("Describe the image in detail. <|image|>", answer="text"),
    "question": Task("{question} <|image|>", answer="text"),
    "edit": Task("{instruction} <|image|>"),
    "next_edit": Task("{instruction}"),
    "chat": Task("{message}", answer="text", image_top_k=2000),  # the freeform demo's
}


def text_to_image(width_px: int, height_px: int, caption: str, layout: str = "uni_rep") -> str:
    r"""The prompt for an image of a size, width first; in Chameleon's layout, trained on no such words, the caption.

    >>> text_to_image(96, 64, "a red circle")
    'Generate an image of 96x64 according to the following prompt:\na red circle'
    """
    if not caption.strip():
        raise ValueError("empty prompt: say what to paint")
    if layout == "chameleon":
        return caption
    return TASKS["text_to_image"].prompt(width=width_px, height=height_px, caption=caption)


def task_prompt(name: str, tokenizer: TextTokenizer, **values: object) -> str:
    """The prompt of a task in the words that a model with this tokenizer learnt: what chooses the spelling."""
    return TASKS[name].prompt(speaks_released(tokenizer), **values)


def speaks_released(tokenizer: TextTokenizer) -> bool:
    """Whether a model is asked as the released ones were: whether it has their tokenizer, Meta's JSON file.

    Models that this project trains with a vocabulary of its own are asked with its own templates.
    """
    return isinstance(tokenizer, ReleasedTokenizer)


def with_placeholders(text: str, num_images: int) -> str:
    """A text with a placeholder for each image: as it is where it has any, else after the words, as tasks have it.

    >>> with_placeholders("Same colour?", 2), with_placeholders("<|image|> or <|image|>?", 2)
    ('Same colour? <|image|> <|image|>', '<|image|> or <|image|>?')
    """
    if IMAGE_PLACEHOLDER in text or not num_images:
        return text
    return " ".join([text.rstrip(), *[IMAGE_PLACEHOLDER] * num_images]).strip()


def template_phrases() -> tuple[str, ...]:
    """The fixed parts of all templates, longest first: one token each in a tokenizer trained for them.

    Image placeholders and single characters are left out, as are released spellings.
    """
    parts = set()
    for task in TASKS.values():
        for literal, *_ in string.Formatter().parse(task.template):
            parts.update(literal.split(IMAGE_PLACEHOLDER))
    return tuple(
        sorted((part for part in parts if len(part) > 1), key=lambda part: (-len(part), part))
    )


def find_task(prompt: str) -> str | None:
    """The name of the task whose fixed words a prompt has; None for free text, which may ask for anything.

    >>> find_task("Segmentic segmentation. <|image|>"), find_task("make it blue <|image|>")
    ('segmentation', None)
    """
    for name, task in TASKS.items():
        if template_words(task.template) and task.matches(prompt):
            return name
    return None


def template_words(template: str) -> str:
    """The fixed words of a template, without blanks, placeholders and outer space; "" when it has none."""
    literals = [literal for literal, *_ in string.Formatter().parse(template)]
    return "".join(literals).replace(IMAGE_PLACEHOLDER, "").strip()


def _is_filled(template: str, prompt: str) -> bool:
    """Whether a prompt is a template with at least one character in every blank; in linear time, whoever wrote it."""
    literals = [""]  # around the blanks
    for literal, name, *_ in string.Formatter().parse(template):
        literals[-1] += literal
        if name:
            literals.append("")
    first, *rest = literals
    if not rest:
        return prompt == first
    *middle, last = rest
    if not (prompt.startswith(first) and prompt.endswith(last)):
        return False
    place, stop = len(first), len(prompt) - len(last)
    for literal in middle:  # where one is found first leaves most room to the others
        found = prompt.find(literal, place + 1, stop)
        if found < 0:
            return False
        place = found + len(literal)
    return place < stop
