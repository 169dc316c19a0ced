"""What an image of the asked size must read like: which tokens are known beforehand, and where codes are drawn.

Reads the one table of forced ids (`unirep.grid`), so a drawn image always parses and always has the asked size. Codes
that are given (a part to continue, what an inpainting keeps) are forced ids like any other.
"""

import warnings
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from lumina_jax.config import ModelConfig
from lumina_jax.unirep.grid import FREE, check_size, crop_sizes, image_table, latent_shape
from lumina_jax.unirep.vocab import Vocab


@dataclass(frozen=True, eq=False)
class ImagePlan:
    """One image sentence before its codes are known.

    A Chameleon grid of 64 by 32 px, P = 2 rows of Q = 4 codes: the sentence is [start, height, width, 4 codes,
    line end, 4 codes, line end, end], `runs` is ((3, 7), (8, 12)) and `line_end_id` stands between them.
    """

    sentence: np.ndarray  # int32; FREE where a code is drawn
    shape: tuple[int, int]  # (P, Q) of the codes
    runs: tuple[tuple[int, int], ...]  # (start, stop) of every stretch of codes, in order
    line_end_id: int  # the one token that the layout has between two runs
    unprompted: tuple[
        int, ...
    ]  # what precedes the first drawn code without any prompt, for guidance

    @property
    def span(self) -> tuple[int, int]:
        """(start, stop) of what is drawn: the first free place, and the one after the last."""
        free = np.flatnonzero(self.sentence == FREE)
        return int(free[0]), int(free[-1]) + 1

    @property
    def lead(self) -> np.ndarray:
        """The forced ids before the first drawn code: start, height and width in Uni-Rep, and what is given of it."""
        return self.sentence[: self.span[0]]

    @property
    def free_runs(self) -> tuple[tuple[int, int], ...]:
        """The runs after the lead, the first of which may be what the lead leaves of one."""
        first = self.span[0]
        return tuple((max(start, first), stop) for start, stop in self.runs if stop > first)

    @property
    def scattered(self) -> bool:
        """Whether codes are given after the first drawn one."""
        return any((self.sentence[start:stop] != FREE).any() for start, stop in self.free_runs)

    @property
    def code_places(self) -> np.ndarray:
        """The places of the P Q codes, drawn or given."""
        return np.concatenate([np.arange(start, stop) for start, stop in self.runs])

    @property
    def stride(self) -> int:
        """How many tokens lie between a code and the one below it, in sentence places."""
        return self.runs[1][0] - self.runs[0][0] if len(self.runs) > 1 else self.shape[1]

    def fill(self, code_ids: np.ndarray) -> np.ndarray:
        """The whole sentence, int32, with the ids of its codes [P, Q], given ones included."""
        ids = self.sentence.copy()
        ids[self.code_places] = np.asarray(code_ids).ravel()
        return ids


class UntrainedSizeWarning(UserWarning):
    """A size that fits the model, although no training showed it one."""


def plan_image(
    width_px: int,
    height_px: int,
    config: ModelConfig,
    vocab: Vocab,
    given: np.ndarray | None = None,
) -> ImagePlan:
    """The plan of an image of width_px by height_px; `given`: codes [P, Q], FREE where one is to be drawn.

    Raises ValueError of one line for a size outside the grid and for `given` that do not fit it, and `check_room` for
    an image too large.
    """
    grid, layout = config.grid, config.image_layout
    check_size(width_px, height_px, grid)
    units = (height_px // grid.unit_px, width_px // grid.unit_px)
    sentence = image_table(*units, vocab, grid, layout)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sentence == FREE, [False]])))
    runs = tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))
    shape = latent_shape(width_px, height_px, grid)
    if given is not None:
        codes = check_given(given, shape, vocab.num_codes).ravel()
        sentence[sentence == FREE] = np.where(codes == FREE, FREE, codes + vocab.first_code_id)
    plan = ImagePlan(sentence, shape, runs, vocab.line_end_id, ())
    # Layouts without size tokens have one token before the codes; the unprompted context is Meta's [bos, start].
    unprompted = [*([] if runs[0][0] > 1 else [vocab.bos_id]), *plan.lead.tolist()]
    return replace(plan, unprompted=tuple(unprompted))


def check_given(given: np.ndarray, shape: tuple[int, int], num_codes: int) -> np.ndarray:
    """The given codes as int32[P, Q]; ValueError of one line unless they fit an image of `shape` and leave one free."""
    given = np.asarray(given)
    if given.shape != shape or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"given codes of {given.dtype} {given.shape}: an image of this size has integers {shape}"
        )
    if given.min() < FREE or given.max() >= num_codes:
        raise ValueError(
            f"given codes from {given.min()} to {given.max()}: want 0 to {num_codes - 1}, "
            f"and {FREE} where one is to be drawn"
        )
    if (given != FREE).all():
        raise ValueError(f"given codes: all are given; want {FREE} where one is to be drawn")
    return given.astype(np.int32)


def check_room(
    width_px: int, height_px: int, num_prompt_tokens: int, config: ModelConfig, what: str = "prompt"
) -> None:
    """Raise ValueError of one line unless the model can write this image after a prompt of this length.

    Checked: multiples of the unit, side ratio, and the longest trained sequence; in Chameleon's layout, whose sentences
    do not tell a size, the trained square. `what` the tokens are of is named in the line.
    """
    side_px, layout = config.target_px, config.image_layout
    if layout == "chameleon" and (width_px, height_px) != (side_px, side_px):
        raise ValueError(
            f"size {width_px}x{height_px}: this model paints {side_px}x{side_px} px only, it never saw size tokens; "
            "ask for that or for no size"
        )
    check_size(width_px, height_px, config.grid)
    room = config.max_tokens - num_prompt_tokens
    if room <= 0:
        raise ValueError(
            f"{what} of {num_prompt_tokens} tokens: this model reads {config.max_tokens} tokens, "
            "image included; shorten it"
        )
    try:
        check_size(width_px, height_px, config.grid, room, layout)
    except ValueError as error:
        raise ValueError(
            f"{error} (the {what} takes {num_prompt_tokens} of {config.max_tokens})"
        ) from None


@cache
def possible_sizes(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """Every (width, height) px that a stage of training can have shown: the allowed crops of all areas up to the last.

    In Chameleon's layout the trained square alone.
    """
    if config.image_layout == "chameleon":
        return ((config.target_px, config.target_px),)
    unit_px = config.grid.unit_px
    areas = range(unit_px, config.target_px + 1, unit_px)
    return tuple(dict.fromkeys(size for px in areas for size in crop_sizes(px, config.grid)))


def warn_untrained(width_px: int, height_px: int, config: ModelConfig) -> None:
    """Warn in one line of a size that no stage can have trained: a larger area, or no allowed crop of a smaller one."""
    side_px = config.target_px
    if width_px * height_px > side_px**2:
        found = (
            f"{width_px * height_px} px, trained on at most {side_px**2} px ({side_px}x{side_px})"
        )
    elif (width_px, height_px) not in possible_sizes(config):
        found = f"not an allowed crop of any area up to {side_px}x{side_px} px"
    else:
        return
    message = f"size {width_px}x{height_px}: {found}; the image may fall apart"
    warnings.warn(message, UntrainedSizeWarning, stacklevel=2)
