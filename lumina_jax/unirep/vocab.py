"""Which id means what, derived from the names in a tokenizer file (Chameleon's names, Lumina-mGPT's use of them)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

BOS_NAME = "<s>"
PAD_NAME = "<pad>"
EOS_NAME = "</s>"
UNKNOWN_NAME = "<unk>"
IMAGE_END_NAME = "<eoss>"
IMAGE_START_NAME = "<racm3:break>"
SEPARATOR_NAME = "<reserved08706>"
LINE_END_NAME = "<reserved08799>"
FIRST_SIZE_NUMBER = 8800

_LETTERS = "ABCDEFGHIJ"
_UNSPOKEN = re.compile(r"<unk>|<reserved\d+>|<sentinel:\d+>")


@dataclass(frozen=True)
class Vocab:
    """The ids that the system itself reads and writes; every other id below `size` is text or unused."""

    size: int  # ids are 0 … size-1; may exceed the names of the tokenizer file
    bos_id: int
    pad_id: int
    eos_id: int  # never used by conversations
    sep_id: int  # ends every turn
    image_start_id: int
    image_end_id: int
    line_end_id: int  # ends every row of codes
    first_code_id: int
    num_codes: int
    first_size_id: int  # the size token of n grid units is first_size_id + n
    num_sizes: int  # size tokens for n = 0 … num_sizes-1
    # every id, of those above or not, whose name stands for no text: the unknown, reserved ones, sentinels
    unspoken_ids: tuple[int, ...] = ()

    @classmethod
    def from_names(cls, names: Mapping[str, int], size: int | None = None) -> "Vocab":
        """Read the vocabulary off a tokenizer's name → id table.

        `size` is the model's vocabulary where it is larger than the table. Raises ValueError when a name is
        missing, or when image codes or size tokens do not have consecutive ids.
        """
        needed = (
            BOS_NAME,
            PAD_NAME,
            EOS_NAME,
            SEPARATOR_NAME,
            IMAGE_START_NAME,
            IMAGE_END_NAME,
            LINE_END_NAME,
        )
        missing = [name for name in (*needed, code_name(0), size_name(0)) if name not in names]
        if missing:
            raise ValueError(
                f"tokenizer lacks {', '.join(missing)}: not a Chameleon-style vocabulary"
            )
        named = max(names.values()) + 1
        if size is not None and size < named:
            raise ValueError(f"vocabulary of {size} ids is smaller than its tokenizer's {named}")
        return cls(
            size=size or named,
            bos_id=names[BOS_NAME],
            pad_id=names[PAD_NAME],
            eos_id=names[EOS_NAME],
            sep_id=names[SEPARATOR_NAME],
            image_start_id=names[IMAGE_START_NAME],
            image_end_id=names[IMAGE_END_NAME],
            line_end_id=names[LINE_END_NAME],
            first_code_id=names[code_name(0)],
            num_codes=_run_length(names, code_name, "image code"),
            first_size_id=names[size_name(0)],
            num_sizes=_run_length(names, size_name, "size token"),
            unspoken_ids=tuple(sorted(i for n, i in names.items() if _UNSPOKEN.fullmatch(n))),
        )

    def code_id(self, code: int) -> int:
        """The id of VQ index `code`; ValueError outside the codebook."""
        if not 0 <= code < self.num_codes:
            raise ValueError(f"image code {code}: want 0 … {self.num_codes - 1}")
        return self.first_code_id + code

    def size_id(self, units: int) -> int:
        """The id of the size token for `units` grid units; ValueError where there is none."""
        if not 0 <= units < self.num_sizes:
            raise ValueError(f"no size token for {units} units: want 0 … {self.num_sizes - 1}")
        return self.first_size_id + units

    def is_code(self, token_id):
        """Whether an id is an image code; elementwise on an array of ids."""
        return (token_id >= self.first_code_id) & (token_id < self.first_code_id + self.num_codes)

    def is_size(self, token_id):
        """Whether an id is a size token; elementwise on an array of ids."""
        return (token_id >= self.first_size_id) & (token_id < self.first_size_id + self.num_sizes)

    def is_text(self, token_id):
        """Whether an id has no meaning to the format: a piece of text; elementwise on an array of ids."""
        special = self.is_code(token_id) | self.is_size(token_id)
        for each in self._named:
            special |= token_id == each
        return (0 <= token_id) & (token_id < self.size) & (special ^ True)

    def special_name(self, token_id: int) -> str | None:
        """The name of an id that only the format may bring into a conversation; None for every other id."""
        if self.is_code(token_id):
            return code_name(token_id - self.first_code_id)
        if self.is_size(token_id):
            return size_name(token_id - self.first_size_id)
        return self._named.get(token_id)

    @property
    def _named(self) -> dict[int, str]:
        return {
            self.bos_id: BOS_NAME,
            self.pad_id: PAD_NAME,
            self.eos_id: EOS_NAME,
            self.sep_id: SEPARATOR_NAME,
            self.image_start_id: IMAGE_START_NAME,
            self.image_end_id: IMAGE_END_NAME,
            self.line_end_id: LINE_END_NAME,
        }


def code_name(index: int) -> str:
    """The name of an image code in a tokenizer file: decimal digits as letters.

    >>> code_name(0), code_name(1234)
    ('IMGIMGAZ', 'IMGIMGBCDEZ')
    """
    return "IMGIMG" + "".join(_LETTERS[int(digit)] for digit in str(index)) + "Z"


def size_name(units: int) -> str:
    """The name of the size token for `units` grid units.

    >>> size_name(16)
    '<reserved08816>'
    """
    return f"<reserved{FIRST_SIZE_NUMBER + units:05d}>"


def special_names(num_codes: int, num_sizes: int) -> list[str]:
    """Every name after the four of a sentencepiece model that a vocabulary of this project needs, in id order."""
    codes = [code_name(index) for index in range(num_codes)]
    sizes = [size_name(units) for units in range(num_sizes)]
    return [*codes, IMAGE_END_NAME, IMAGE_START_NAME, SEPARATOR_NAME, LINE_END_NAME, *sizes]


def _run_length(names: Mapping[str, int], name_of, what: str) -> int:
    """How many consecutive `name_of(0), name_of(1), …` exist; ValueError unless their ids are consecutive."""
    first, count = names[name_of(0)], 0
    while (name := name_of(count)) in names:
        if names[name] != first + count:
            raise ValueError(
                f"{what} {name} has id {names[name]}, want {first + count}: ids must be consecutive"
            )
        count += 1
    return count
