"""Paths that are local or in a bucket: `gs://bucket/name`, read and written through etils.epath and gcsfs.

A local path is a `pathlib.Path`; one in a bucket is an `epath.Path`, which has the same methods. Nothing is imported
for local paths. In a bucket an object appears whole or not at all, and a folder is only a common beginning of names:
it needs no making, and it cannot be renamed at once.
"""

import base64
import hashlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Any, cast

SCHEME = "gs:/"  # one slash: pathlib takes the other away
PIECE_BYTES = 16 * 2**20  # read at once by a copy
NUM_COPIES = 8  # files copied at a time
LIBRARIES = ("gcsfs", "google", "aiohttp", "requests", "fsspec")  # whose errors are the bucket's

AnyPath = str | os.PathLike[str]


class BucketError(OSError):
    """A bucket that cannot be reached, read or written; the message says what to do."""


def is_remote(path: AnyPath) -> bool:
    """Whether a path is in a bucket."""
    return os.fspath(path).startswith(SCHEME)


def parse_path(text: AnyPath) -> Path:
    """A path as it was written; a `gs://` that went through pathlib gets its second slash back. Asks no server."""
    if not is_remote(text):
        return Path(text)
    from etils import epath

    name = os.fspath(text)[len(SCHEME) :].strip("/")
    if not name:
        raise ValueError(f"{text}: names no bucket; want gs://bucket/folder")
    return cast(Path, epath.Path(f"gs://{name}"))


def as_path(path: AnyPath) -> Path:
    """A path to read or write, of which `str | Path` are accepted; BucketError unless its bucket answers."""
    path = parse_path(path)
    if is_remote(path):
        _check_bucket(_bucket_of(path))
    return path


def absolute(path: AnyPath) -> Path:
    """As `as_path`, a local one from the root on."""
    path = as_path(path)
    return path if is_remote(path) else path.absolute()


def check_bucket(path: Path) -> None:
    """BucketError of one line unless the bucket of a path answers now; nothing for a local path."""
    if is_remote(path):
        _check_bucket.__wrapped__(_bucket_of(path))


def join(folder: AnyPath, name: AnyPath) -> Path:
    """`folder / name`, or `name` alone where it is in a bucket or absolute."""
    alone = is_remote(name) or os.path.isabs(name)
    return as_path(name) if alone else as_path(folder) / name


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where there are such things."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def names_in(folder: Path) -> set[str]:
    """What a folder holds, by name, nothing where it is not there; one listing, however much that is."""
    try:
        if not is_remote(folder):
            return {*os.listdir(folder)}
        ask = partial(bucket_files().ls, str(folder), detail=False)
        return {PurePath(name).name for name in with_bucket_errors(folder, ask)}
    except FileNotFoundError:
        return set()


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if is_remote(folder):
        cast(Any, folder).rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    if is_remote(file):
        with_bucket_errors(file, lambda: bucket_files().pipe_file(str(file), content))
        return
    temporary = file.with_name(f"{file.name}.writing-{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """BucketError unless objects may be written under a folder in a bucket; writes nothing."""
    bucket, wanted = _bucket_of(folder), "storage.objects.create"
    ask = ("GET", "b/{}/iam/testPermissions", bucket)
    answer = with_bucket_errors(
        folder, lambda: bucket_files().call(*ask, permissions=wanted, json_out=True)
    )
    if wanted not in answer.get("permissions", []):
        raise BucketError(
            f"{folder}: no permission to write there ({wanted}); choose another place"
        )


def cache_folder() -> Path:
    """Where copies from buckets and compiled programs are kept: $LUMINA_JAX_CACHE, or ~/.cache/lumina_jax."""
    given = os.environ.get("LUMINA_JAX_CACHE")
    return Path(given).absolute() if given else Path.home() / ".cache" / "lumina_jax"


def local_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The files of a folder whose names match, sorted; those of a bucket are copied to the cache once.

    A copy is kept under the address, size and generation of its object, and checked against the object's MD5.
    """
    if not is_remote(folder):
        return sorted(folder.glob(pattern))
    files = bucket_files()
    found = with_bucket_errors(folder, lambda: files.glob(f"{folder}/{pattern}", detail=True))
    stored = [found[name] for name in sorted(found) if found[name]["type"] == "file"]
    places = [_place_in_cache(one) for one in stored]
    missing = [
        (one, place) for one, place in zip(stored, places, strict=True) if not place.exists()
    ]
    sizes = [int(one["size"]) for one, _ in missing]
    _in_threads(
        lambda pair, tell: _download(pair[0], pair[1], tell), missing, sizes, f"copying {folder}"
    )
    return places


def copy_folder(source: Path, target: Path, last: str = "", without: str = "") -> None:
    """Copy a local folder into a bucket, its file `last` after all others, its file `without` not at all.

    What is there already is left: a copy that was cut short goes on where it was when it is asked for again.
    """
    found = sorted(path for path in source.rglob("*") if path.is_file())
    names = {path: path.relative_to(source).as_posix() for path in found}
    files = [path for path in found if names[path] != without]
    stored = with_bucket_errors(target, lambda: bucket_files().find(str(target), detail=True))
    there = {f"gs://{name}": one for name, one in stored.items()}
    early, late = (
        [path for path in files if (names[path] == last) is is_last] for is_last in (False, True)
    )

    def copy(path: Path, tell: Callable[[int], Any]) -> None:
        to = f"{target}/{names[path]}"
        if not _is_same(path, there.get(to)):
            with_bucket_errors(target, lambda: bucket_files().put_file(str(path), to))
        tell(path.stat().st_size)

    _in_threads(copy, early, [path.stat().st_size for path in early], f"copying to {target}")
    for path in late:
        copy(path, lambda size: None)


@cache
def bucket_files() -> Any:
    """The fsspec file system that epath uses for gs://; BucketError of one line where gcsfs is absent."""
    if importlib.util.find_spec("gcsfs") is None:
        raise BucketError("gs:// paths want gcsfs: pip install -r requirements-gcs.txt")
    # its newer class asks for a bucket's kind over gRPC, which a login for storage need not allow
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what it logs is raised as well
    # a listing that is remembered would hide what Orbax and other processes have written since
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem("gcs", finalize_on_close=True)  # as epath asks: the same instance


def with_bucket_errors(path: AnyPath, action: Callable[[], Any]) -> Any:
    """What `action` returns; what goes wrong in the bucket as a BucketError of one line."""
    try:
        return action()
    except Exception as error:
        if isinstance(error, FileNotFoundError) or not is_bucket_error(error):
            raise
        raise BucketError(f"{path}: {one_line(error)}") from error


def is_bucket_error(error: BaseException) -> bool:
    """Whether an exception was raised by a library that talks to buckets, or tells of the network."""
    own = any(kind.__module__.split(".")[0] in LIBRARIES for kind in type(error).__mro__)
    return own or isinstance(error, OSError)


def one_line(error: BaseException) -> str:
    """What an exception of another library says, in one line, and what helps against it."""
    text = " ".join(str(error).split()) or type(error).__name__
    credentials = ("401", "403", "Forbidden", "credentials", "Anonymous", "Unauthorized")
    if any(word in text for word in credentials):
        text += "; log in (gcloud auth application-default login) as somebody who may do that"
    return text[:400]


@cache
def _check_bucket(bucket: str) -> None:
    """BucketError of one line unless the bucket can be listed."""
    files, place = bucket_files(), f"gs://{bucket}"
    try:
        with_bucket_errors(
            place, lambda: files.call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)
        )
    except FileNotFoundError:
        raise BucketError(f"{place}: no such bucket; make it, or correct the name") from None


def _bucket_of(path: Path) -> str:
    return os.fspath(path)[len(SCHEME) + 1 :].split("/")[0]


def _place_in_cache(stored: dict[str, Any]) -> Path:
    version = f"{stored['name']} {stored['size']} {stored.get('generation')}"
    folder = hashlib.sha256(version.encode()).hexdigest()[:16]
    return cache_folder() / "gs" / folder / PurePath(stored["name"]).name


def _download(stored: dict[str, Any], place: Path, tell: Callable[[int], Any]) -> None:
    """Copy one object to `place`, which appears when all of it is there."""
    name, size = stored["name"], int(stored["size"])
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f"{place.name}.writing-{os.getpid()}")
    digest = hashlib.md5()
    try:
        with temporary.open("wb") as stream:
            for start in range(0, size, PIECE_BYTES):
                stop = min(size, start + PIECE_BYTES)
                piece = with_bucket_errors(
                    f"gs://{name}", lambda a=start, b=stop: bucket_files().cat_file(name, a, b)
                )
                stream.write(piece)
                digest.update(piece)
                tell(len(piece))
        md5 = stored.get("md5Hash")
        if md5 is not None and base64.b64decode(md5) != digest.digest():
            raise BucketError(f"gs://{name}: changed or was damaged while it was copied; try again")
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _is_same(path: Path, stored: dict[str, Any] | None) -> bool:
    """Whether an object holds what a file does."""
    if stored is None or int(stored["size"]) != path.stat().st_size or "md5Hash" not in stored:
        return False
    with path.open("rb") as stream:
        return base64.b64decode(stored["md5Hash"]) == hashlib.file_digest(stream, "md5").digest()


def _in_threads(
    copy: Callable[..., None], items: Iterable[Any], sizes: list[int], title: str
) -> None:
    """Call `copy(item, tell)` for every item, several at a time, with a bar of bytes where there are many."""
    from tqdm import tqdm

    quiet = sum(sizes) < PIECE_BYTES
    pool = ThreadPoolExecutor(NUM_COPIES)
    try:
        with tqdm(total=sum(sizes), desc=title, unit="B", unit_scale=True, disable=quiet) as bar:
            for done in as_completed([pool.submit(copy, item, bar.update) for item in items]):
                done.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error nothing more is begun
