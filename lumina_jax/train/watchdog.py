"""Ends a process that makes no progress, after writing down where each of its threads stands."""

import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lumina_jax.paths import as_path, write_bytes

EXIT_CODE = 3  # a supervisor that sees it starts the command again
GRACE_SECONDS = 60.0  # for writing the stacks down, and beyond the limit for a thread that never lets go of Python
STDERR = 2  # the descriptor: `sys.stderr` may have been replaced by what has none


class Watchdog:
    """Within it `beat()` must be called every `seconds`, from the first call on; 0 watches nothing.

    A process that is late prints the stacks of all threads on stderr, writes them to `workdir/hang-PROCESS.txt` and
    ends with EXIT_CODE, without cleaning up: whatever hangs may hang the cleaning too. Where a thread holds on to
    Python's interpreter lock, so that nothing in Python can run, faulthandler's own thread does the first and ends the
    process with code 1, GRACE_SECONDS later.
    """

    def __init__(self, seconds: float, workdir: str | Path, process: int = 0):
        self._seconds, self._process = seconds, process
        self._file = as_path(workdir) / f"hang-{process}.txt"
        self._beat: float | None = None  # None: not waiting for anything
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Something was finished; the next is due in time."""
        self._beat = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it nothing is due: a program is being compiled."""
        before, self._beat = self._beat, None
        yield
        if before is not None:
            self.beat()

    def __enter__(self) -> "Watchdog":
        """Begin to watch."""
        if self._seconds:
            self._set_timer(self._seconds + GRACE_SECONDS)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Cease to watch."""
        self._closed.set()
        if self._seconds:
            self._thread.join()  # it might set faulthandler's timer once more
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._closed.wait(min(self._seconds / 4, 5.0)):
            self._set_timer(self._seconds + GRACE_SECONDS)
            beat = self._beat
            if beat is not None and time.monotonic() - beat > self._seconds:
                self._end(time.monotonic() - beat)

    def _set_timer(self, seconds: float) -> None:
        """Let faulthandler end the process unless this is called again in time."""
        faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)

    def _end(self, seconds: float) -> None:
        """Tell where everything stands, and end the process."""
        self._set_timer(GRACE_SECONDS)
        line = (
            f"error: process {self._process} has finished no step for {seconds:.0f} seconds; it ends with code "
            f"{EXIT_CODE}, the same command resumes the run; where its threads stand: {self._file}"
        )
        print(f"\n{line}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(STDERR, all_threads=True)
        with tempfile.TemporaryFile() as stacks:
            stacks.write(f"{line}\n\n".encode())
            stacks.flush()
            faulthandler.dump_traceback(stacks, all_threads=True)
            stacks.seek(0)
            write_bytes(self._file, stacks.read())
        os._exit(EXIT_CODE)
