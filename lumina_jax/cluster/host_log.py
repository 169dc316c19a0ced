"""What a process of a cluster prints, kept in WORKDIR/logs/host-N.log as well, however the process ends.

A small process beside it, the keeper, reads all that is written to the descriptors 1 and 2, by Python, by C++ or by
children, and lives until the last of it is in the file. So neither `os._exit` nor a fatal error of JAX's coordination
service, which lets nothing of Python run, cuts the log.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lumina_jax.paths import as_path, is_bucket_error, is_remote, make_folder, write_bytes

SCREEN = 2  # the keeper's own stderr
BUCKET_SECONDS = 60.0  # between two writings of a log in a bucket, which takes whole objects
TAIL_BYTES = 65536  # of the output, in which the reason of an end is looked for
ORDERLY = b"."  # what a process tells its keeper before it ends by its own will
FATAL = b"JAX distributed service detected fatal errors"  # jaxlib, before it aborts
AGAIN = "start the same command again: it resumes at the last checkpoint"
PEER_DIED = "another process of the cluster died or lost its network"


class HostLog:
    """Sends what this process and its children print to its keeper."""

    def __init__(self, workdir: str | Path, process: int, header: str, on_screen: bool):
        """`on_screen`: whether it goes on to the screen, too. Raises OSError where the folder can't be made."""
        self.on_screen = on_screen
        folder = as_path(workdir) / "logs"
        make_folder(folder)
        self.file = folder / f"host-{process}.log"
        printed, into_keeper = os.pipe()
        orderly, self._orderly = os.pipe()
        command = [
            sys.executable,
            "-m",
            "lumina_jax.cluster.host_log",
            str(self.file),
            str(process),
        ]
        self._keeper = subprocess.Popen(
            [*command, str(orderly), "screen" if on_screen else "quiet"],
            stdin=printed,
            pass_fds=(orderly,),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            },
            start_new_session=True,  # Ctrl-C is the run's
        )
        _flush()
        self._screen = {number: os.dup(number) for number in (1, 2)}
        for number in self._screen:
            os.dup2(into_keeper, number)
        for number in (printed, into_keeper, orderly):
            os.close(number)
        say(header)

    def close(self) -> None:
        """Print to the screen again; returns once all is in the file."""
        _flush()
        os.write(self._orderly, ORDERLY)
        for number, screen in self._screen.items():
            os.dup2(screen, number)
            os.close(screen)
        with suppress(subprocess.TimeoutExpired):  # a child that still holds the descriptors
            self._keeper.wait(timeout=10)


class _File:
    """The log on a disk or in a bucket, appended to; it lacks what could not be written, and says so once."""

    def __init__(self, path: Path):
        self._path, self._remote, self._failed = path, is_remote(path), False
        self._line = b""  # not ended yet
        self._all, self._due = b"", 0.0  # of an object: its content, and when it is written next
        self._disk = None
        with self._forgiving():
            if not self._remote:
                self._disk = path.open("ab", buffering=0)
            elif path.exists():
                self._all = path.read_bytes()

    def add(self, text: bytes, end: bool = False) -> None:
        """Whole lines; of one that is written over and over, as a progress bar is, the last state."""
        *lines, self._line = (self._line + text).split(b"\n")
        self._line = self._line.rpartition(b"\r")[2]
        whole = b"".join(line.rpartition(b"\r")[2] + b"\n" for line in lines)
        if end and self._line:
            whole += self._line + b"\n"
            self._line = b""
        if self._disk is not None and whole:
            with self._forgiving():
                self._disk.write(whole)
        self._all += whole if self._remote else b""
        self.send(end)

    def send(self, now: bool = False) -> None:
        """To the bucket, where it is time."""
        if self._remote and (now or time.monotonic() >= self._due):
            self._due = time.monotonic() + BUCKET_SECONDS
            with self._forgiving():
                write_bytes(self._path, self._all)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        """A full disk or a bucket that does not answer is no reason to end a training."""
        try:
            yield
        except Exception as error:
            if not (isinstance(error, OSError) or is_bucket_error(error)):
                raise
            if not self._failed:
                _show(f"warning: {self._path}: {one_line(error)}\n".encode())
            self._failed = True


def keep(file: Path, process: int, orderly: int, on_screen: bool) -> None:
    """The keeper: copy stdin to `file` until its writers are gone, then say so if they did not mean to go."""
    # they are meant for the run, whose last words are wanted
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log, tail = _File(file), b""
    while True:
        if not select.select([0], [], [], BUCKET_SECONDS)[0]:
            log.send()
            continue
        text = os.read(0, 65536)
        if not text:
            break
        tail = (tail + text)[-TAIL_BYTES:]
        log.add(text)
        if on_screen:
            _show(text)
    if os.read(orderly, 1) == ORDERLY:
        log.add(b"", end=True)
        return
    line = f"{_reason(tail, process)}; {AGAIN}; its output: {file}\n".encode()
    log.add(b"\n" * bool(tail and not tail.endswith(b"\n")) + line, end=True)
    _show(b"\n" + line)


def _reason(tail: bytes, process: int) -> str:
    """What ended a process that could not say it."""
    if FATAL in tail:
        return f"process {process} was ended by JAX, most likely because {PEER_DIED}"
    return f"process {process} was killed, or ended without cleaning up"


def say(line: str) -> None:
    """A line on stderr, now."""
    print(line, file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """An error's message without line ends."""
    return " ".join(str(error).split())


def _show(text: bytes) -> None:
    with suppress(OSError):  # a screen that is gone
        os.write(SCREEN, text)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


if __name__ == "__main__":
    path, index, control, screen = sys.argv[1:]
    keep(as_path(path), int(index), int(control), screen == "screen")
