"""Training a sentencepiece model whose special tokens carry the names of Chameleon's release."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from lumina_jax.unirep.text import SentencePieceTokenizer
from lumina_jax.unirep.vocab import BOS_NAME, EOS_NAME, PAD_NAME, UNKNOWN_NAME, special_names

_SPACE = "\u2581"  # how sentencepiece writes a space inside a piece
_PRINTABLE_ASCII = "".join(chr(code) for code in range(33, 127))


def train_sentencepiece(
    texts: Iterable[str],
    path: str | Path,
    num_codes: int,
    num_sizes: int,
    vocab_size: int,
    phrases: Sequence[str] = (),
) -> SentencePieceTokenizer:
    """Train on `texts`, write the model to `path` and read it back.

    Ids: 0 <s>, 1 <pad>, 2 </s>, 3 <unk>, 4 … the image codes, end and start of image, separator, line end, size
    tokens, newline, `phrases` (one token each wherever they occur), 256 bytes, then pieces of BPE. `vocab_size`
    counts all of them and is an upper bound: training stops early when every word has become one piece.
    The same texts give the same file. Raises ValueError when there is no text, or `vocab_size` leaves no room
    for characters.
    """
    from sentencepiece import SentencePieceTrainer

    texts = list(texts)
    if not any(texts):
        raise ValueError("no text to train a tokenizer on")
    specials = special_names(num_codes, num_sizes)
    fixed = ["\n", *(phrase for phrase in dict.fromkeys(phrases) if phrase != "\n")]
    smallest = 4 + len(specials) + len(fixed) + 256 + len(_PRINTABLE_ASCII) + 1
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size {vocab_size}: specials, phrases, bytes and characters alone need {smallest}"
        )
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",  # one piece per common word; unigram prefers fragments on a small closed vocabulary
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        control_symbols=specials,
        user_defined_symbols=[phrase.replace(" ", _SPACE) for phrase in fixed],
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        bos_piece=BOS_NAME,
        pad_piece=PAD_NAME,
        eos_piece=EOS_NAME,
        unk_piece=UNKNOWN_NAME,
        byte_fallback=True,
        character_coverage=1.0,
        required_chars=_PRINTABLE_ASCII,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())
    return SentencePieceTokenizer(path)
