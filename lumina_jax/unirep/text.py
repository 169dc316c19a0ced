"""Text to ids and back: the released tokenizer (`tokenizers` JSON) or a sentencepiece model."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from lumina_jax.paths import as_path, make_folder, write_bytes
from lumina_jax.unirep.vocab import Vocab

JSON_NAME = "text_tokenizer.json"
SENTENCEPIECE_NAME = "tokenizer.model"


@runtime_checkable
class TextTokenizer(Protocol):
    """What the rest of the system needs of a tokenizer."""

    @property
    def path(self) -> Path:
        """The file it was read from."""
        ...

    @property
    def vocab(self) -> Vocab:
        """The ids that are not text."""
        ...

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the file's sha256."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text, nothing added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens and ids without a name are left out."""
        ...

    def save(self, folder: str | Path) -> Path:
        """Copy the file into a folder under the name that `load_tokenizer` finds."""
        ...


class _TokenizerFile:
    """The file behind a tokenizer, held in memory so that it can be saved when the original is gone."""

    file_name: str

    def __init__(self, path: str | Path):
        self.path = as_path(path)
        self._content = self.path.read_bytes()
        self.fingerprint = hashlib.sha256(self._content).hexdigest()[:16]

    def save(self, folder: str | Path) -> Path:
        """Copy the file into a folder under the name that `load_tokenizer` finds."""
        target = as_path(folder) / self.file_name
        make_folder(target.parent)
        write_bytes(target, self._content)
        return target


class ReleasedTokenizer(_TokenizerFile):
    """Meta's `text_tokenizer.json`: byte-level BPE; names of special tokens inside a text become those tokens."""

    file_name = JSON_NAME

    def __init__(self, path: str | Path):
        """Read the file; ValueError unless it is a Chameleon-style `tokenizers` JSON."""
        from tokenizers import Tokenizer

        super().__init__(path)
        try:
            self._tokenizer = Tokenizer.from_buffer(self._content)
        except Exception as error:  # `tokenizers` raises bare Exception (0.20 to 0.23)
            raise ValueError(f"{path}: not a tokenizer file ({error})") from error

    @cached_property
    def names(self) -> dict[str, int]:
        """The id of every name, in the order of the ids."""
        names = self._tokenizer.get_vocab(with_added_tokens=True)
        return dict(sorted(names.items(), key=lambda item: item[1]))

    @cached_property
    def vocab(self) -> Vocab:
        """The ids that are not text."""
        return Vocab.from_names(self.names)

    @property
    def content(self) -> bytes:
        """The file."""
        return self._content

    def encode(self, text: str) -> list[int]:
        """The ids of a text, nothing added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens and ids without a name are left out."""
        kept = [
            int(i) for i in ids if not self.vocab.is_code(i)
        ]  # codes are plain entries of the file
        return self._tokenizer.decode(kept, skip_special_tokens=True)


class SentencePieceTokenizer(_TokenizerFile):
    """A sentencepiece model whose specials are control symbols: no text can produce them.

    Round trips every text except one with U+2581, which sentencepiece reads as a space.
    """

    file_name = SENTENCEPIECE_NAME

    def __init__(self, path: str | Path):
        """Read the file; ValueError unless it is a sentencepiece model with Chameleon's names."""
        from sentencepiece import SentencePieceProcessor

        super().__init__(path)
        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self._content)
        except RuntimeError as error:
            raise ValueError(f"{path}: not a sentencepiece model ({error})") from error

    @cached_property
    def vocab(self) -> Vocab:
        """The ids that are not text."""
        count = self._processor.get_piece_size()
        return Vocab.from_names({self._processor.id_to_piece(i): i for i in range(count)})

    def encode(self, text: str) -> list[int]:
        """The ids of a text, nothing added."""
        return self._processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens and ids without a name are left out."""
        named, unknown_id = self._processor.get_piece_size(), self._processor.unk_id()
        return self._processor.decode([int(i) for i in ids if 0 <= i < named and i != unknown_id])


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """Read a tokenizer: a `.json` or `.model` file, or a folder that holds one under its usual name."""
    path = as_path(path)
    if path.is_dir():
        found = [path / name for name in (JSON_NAME, SENTENCEPIECE_NAME) if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path}: holds neither {JSON_NAME} nor {SENTENCEPIECE_NAME}")
        path = found[0]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such tokenizer file")
    kinds = {".json": ReleasedTokenizer, ".model": SentencePieceTokenizer}
    if path.suffix not in kinds:
        raise ValueError(f"{path}: want a tokenizer ending in {' or '.join(kinds)}")
    return kinds[path.suffix](path)
