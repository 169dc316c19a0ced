"""WebDataset tars as a source: members of one name before the first dot are an example; nothing is unpacked."""

import tarfile
from pathlib import Path, PurePosixPath

from lumina_jax.data.pretokenize.examples import (
    BadInput,
    Example,
    FileRange,
    Source,
    Where,
    captions_of,
    digest_of,
    read_text,
)
from lumina_jax.data.pretokenize.folder_source import IMAGE_SUFFIXES
from lumina_jax.data.pretokenize.json_source import parse_object
from lumina_jax.data.pretokenize.options import SourceOptions

TEXTS = (".txt", ".json")
END_BYTES = 1024  # of zeros, at the end of every tar


def open_tars(path: Path, options: SourceOptions) -> Source:
    """One tar, or all of a folder by name: an image with .txt or .json beside; other members are passed over.

    The .json holds "caption" (or --caption-field), or "conversations" that speak of the images of its example.
    """
    tars = [path] if path.is_file() else sorted(path.glob("*.tar"))
    if not tars:
        raise ValueError(f"{path}: no .tar there")
    groups = [group for tar in tars for group in _groups(tar)]

    def read(index: int) -> Example:
        return _example(groups[index], options)

    stated = ((Path(tar).name, *more) for tar, *more in groups)  # wherever they are mounted
    return Source("webdataset", len(groups), read, digest_of(stated))


def _groups(tar: Path) -> list[tuple[str, str, str, tuple]]:
    """(tar, key, problem, members) of every example; a tar that is damaged ends with one that has the problem."""
    found: dict[str, list[tuple[str, int, int]]] = {}  # (suffix, offset, size)
    problem = ""
    try:
        num_bytes = tar.stat().st_size
        with tarfile.open(tar, "r:") as stream:
            for member in stream:
                stored = member.isreg() and not member.issparse()
                if stored and not 0 <= member.size <= num_bytes - member.offset_data:
                    raise EOFError(f"{member.name[:60]!r} says it has {member.size} bytes")
                name = PurePosixPath(member.name)
                stem, _, rest = name.name.partition(".")
                suffix = PurePosixPath(f"x.{rest.lower()}").suffix
                if stored and stem:
                    if suffix in IMAGE_SUFFIXES or suffix in TEXTS:
                        place = (suffix, member.offset_data, member.size)
                        found.setdefault(str(name.with_name(stem)), []).append(place)
            _check_end(tar, stream.offset)
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError) as error:
        problem = f"a broken tar ({error or type(error).__name__}); what follows is lost"
    groups = [(str(tar), key, "", tuple(members)) for key, members in found.items()]
    return groups + [(str(tar), "", problem, ())] * bool(problem)


def _check_end(tar: Path, offset: int) -> None:
    """EOFError unless a tar's two blocks of zeros are at `offset`, and nothing else after them.

    To tarfile a header that is damaged or cut is an end like any other.
    """
    with tar.open("rb") as stream:
        stream.seek(offset)
        end = stream.read(END_BYTES)
        if end.strip(b"\0"):
            raise EOFError(f"no header at byte {offset}")
        if len(end) < END_BYTES:
            raise EOFError(f"cut off at byte {offset + len(end)}")
        while block := stream.read(1 << 20):
            if block.strip(b"\0"):
                raise EOFError(f"more after its end at byte {offset}, of another tar perhaps")


def _example(group: tuple[str, str, str, tuple], options: SourceOptions) -> Example:
    tar, key, problem, members = group
    where = Where(f"{tar}#{key}" if key else tar)
    if problem:
        raise BadInput(where, problem)
    images = tuple(
        FileRange(tar, *place, name=suffix) for suffix, *place in members if suffix not in TEXTS
    )
    texts = {suffix: FileRange(tar, *place) for suffix, *place in members if suffix in TEXTS}
    record = _record(texts, where)
    if "conversations" in record:
        return Example(where, images, turns=record["conversations"], id=key)
    field = options.caption_field or "caption"
    if ".txt" in texts:
        captions = captions_of(read_text(texts[".txt"], where), where)
    elif field in record:
        captions = captions_of(record[field], where)
    else:
        raise BadInput(where, f'no caption: want .txt, or .json with "{field}" or "conversations"')
    if len(images) != 1:
        raise BadInput(where, f"{len(images)} images with a caption, want 1")
    return Example(where, images, captions=captions, id=key)


def _record(texts: dict[str, FileRange], where: Where) -> dict:
    """What the .json says; beside a .txt one without conversations may hold anything."""
    if ".json" not in texts:
        return {}
    text = read_text(texts[".json"], where)
    try:
        return parse_object(text, where)
    except BadInput:
        if ".txt" in texts and '"conversations"' not in text:
            return {}
        raise
