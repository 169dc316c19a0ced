"""One example of the protocol: a conversation up to the answer that is scored, and the truth."""

from dataclasses import dataclass

import numpy as np

from lumina_jax.evals.prompts import Prompt
from lumina_jax.evals.tasks.common import Truth

Images = tuple[np.ndarray, ...]  # uint8[Y,X,3] each


@dataclass(frozen=True, eq=False)
class Turn:
    """What a human says, with placeholders for the images shown, and the true answer: words, or images."""

    task: str  # a row of TASKS, by which it is answered
    said: str
    shown: Images
    answer: str | Images


@dataclass(frozen=True, eq=False)
class Example:
    """A conversation whose last answer is scored; the answers before it are the model's own."""

    index: int
    turns: tuple[Turn, ...]
    truth: Truth
    prompt: Prompt | None = None  # of a picture painted from words alone: what must be seen

    @property
    def task(self) -> str:
        """That of the last turn."""
        return self.turns[-1].task

    @property
    def seed(self) -> int:
        """That its answers are drawn with."""
        return self.index

    @property
    def kind(self) -> str:
        """What it is counted by: the category, the kind of the question or edit, the map; "" where there is one."""
        return self.truth.kind

    @property
    def true_answer(self) -> str | Images:
        """The right answer of the last turn."""
        return self.turns[-1].answer
