"""What an image of the asked size must read like: which tokens are known beforehand, and where codes are drawn.

Reads the one table of forced ids (`unirep.grid`), so a drawn image always parses and always has the asked size.
"""

from dataclasses import dataclass

import numpy as np

from lumina_jax.config import ModelConfig
from lumina_jax.unirep.grid import FREE, check_size, image_table, latent_shape
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
    line_end_id: int  # the one forced token between two runs
    unprompted: tuple[int, ...]  # what precedes the first code without any prompt, for guidance

    @property
    def lead(self) -> np.ndarray:
        """The forced ids before the first code: start, height and width in Uni-Rep."""
        return self.sentence[: self.runs[0][0]]

    @property
    def stride(self) -> int:
        """How many tokens lie between a code and the one below it, in sentence places."""
        return self.runs[1][0] - self.runs[0][0] if len(self.runs) > 1 else self.shape[1]

    def fill(self, code_ids: np.ndarray) -> np.ndarray:
        """The whole sentence, int32, with the ids of its codes [P, Q] in the free places."""
        ids = self.sentence.copy()
        ids[ids == FREE] = np.asarray(code_ids).ravel()
        return ids


def plan_image(width_px: int, height_px: int, config: ModelConfig, vocab: Vocab) -> ImagePlan:
    """The plan of an image of width_px by height_px.

    Raises ValueError of one line for a size outside the grid, and `check_room` for one too large.
    """
    grid, layout = config.grid, config.image_layout
    check_size(width_px, height_px, grid)
    units = (height_px // grid.unit_px, width_px // grid.unit_px)
    sentence = image_table(*units, vocab, grid, layout)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sentence == FREE, [False]])))
    runs = tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))
    lead = tuple(int(i) for i in sentence[: runs[0][0]])
    # Chameleon's own layout has one token before the codes; its unprompted context is Meta's [bos, start].
    unprompted = lead if len(lead) > 1 else (vocab.bos_id, *lead)
    shape = latent_shape(width_px, height_px, grid)
    return ImagePlan(sentence, shape, runs, vocab.line_end_id, unprompted)


def check_room(width_px: int, height_px: int, num_prompt_tokens: int, config: ModelConfig) -> None:
    """Raise ValueError of one line unless the model can write this image after a prompt of this length.

    Checked: multiples of the unit, side ratio, the trained area, and the longest trained sequence; in Chameleon's
    layout, whose sentences do not tell a size, the trained square.
    """
    side_px, layout = config.target_px, config.image_layout
    if layout == "chameleon" and (width_px, height_px) != (side_px, side_px):
        raise ValueError(
            f"size {width_px}x{height_px}: this model paints {side_px}x{side_px} px only, it never saw size tokens; "
            "ask for that or for no size"
        )
    check_size(width_px, height_px, config.grid)
    if width_px * height_px > config.target_px**2:
        raise ValueError(
            f"size {width_px}x{height_px}: {width_px * height_px} px, this model paints at most "
            f"{config.target_px**2} px ({config.target_px}x{config.target_px}); ask for a smaller image"
        )
    room = config.max_tokens - num_prompt_tokens
    if room <= 0:
        raise ValueError(
            f"prompt of {num_prompt_tokens} tokens: this model reads {config.max_tokens} tokens, "
            "image included; shorten it"
        )
    try:
        check_size(width_px, height_px, config.grid, room, layout)
    except ValueError as error:
        raise ValueError(
            f"{error} (the prompt takes {num_prompt_tokens} of {config.max_tokens})"
        ) from None
