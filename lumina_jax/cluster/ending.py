"""How a process of a cluster ends: with a line that says why and a code that says whether to start again."""

import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from lumina_jax.cli import explain
from lumina_jax.cluster.host_log import AGAIN, PEER_DIED, HostLog, one_line, say
from lumina_jax.train.watchdog import EXIT_CODE

LAST_WORDS_SECONDS = (
    5.0  # the first process leads the cluster: the others say what ails them before it goes
)


@contextmanager
def ending_together(workdir: str | Path) -> Iterator[None]:
    """Within it a process of a cluster logs to `workdir`/logs, and an error ends it without waiting for others.

    They then end as well, within the heartbeat: jax would have them wait for minutes. Exit codes: docs/training.md.
    """
    import jax

    if not jax.distributed.is_initialized():
        yield
        return
    log = None
    try:  # also where devices are looked for, and where a folder is made
        if jax.process_count() > 1:
            first = jax.process_index() == 0
            log = HostLog(workdir, jax.process_index(), _header(), on_screen=first)
        yield
    except BaseException as error:
        end_at_once(error, log)
    if log is not None:
        log.close()


def end_at_once(error: BaseException, log: HostLog | None = None) -> NoReturn:
    """End this process of a cluster by an error: an orderly end would wait for the others."""
    line, code = end_of(error)
    say(line)
    if log is not None:
        log.close()
        if not log.on_screen:
            say(line)
    if log is None or log.on_screen:  # the first process, perhaps
        time.sleep(LAST_WORDS_SECONDS)
    sys.stderr.flush()
    os._exit(code)


# What jax's errors say that come of others: of gloo, of NCCL, of the coordination service, of its barriers.
PEER_SIGNS = (
    *("Gloo", "gloo", "closed by peer", "reset by peer", "Socket closed", "NCCL", "nccl"),
    *("coordination service", "CoordinationService", "heartbeat", "task died", "tasks died"),
    *("DEADLINE_EXCEEDED", "UNAVAILABLE", "Barrier", "barrier"),
)


def is_of_a_peer(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, is jax's complaint about another process."""
    import jax

    while error is not None:
        ours = isinstance(error, jax.errors.JaxRuntimeError)
        if ours and any(sign in str(error) for sign in PEER_SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def end_of(error: BaseException) -> tuple[str, int]:
    """(what is said of an error, exit code); both are in docs/training.md."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if is_of_a_peer(error):
        what = (
            f"error: {PEER_DIED} ({one_line(error)[:200]}); it ends with code {EXIT_CODE}; {AGAIN}"
        )
        return what, EXIT_CODE
    line = explain(error)
    if line is not None:
        return f"error: {line}", 2
    return "".join(traceback.format_exception(error)).rstrip(), 1


def _header() -> str:
    """The line that begins a process's part of its log."""
    import jax

    at = time.strftime("%Y-%m-%d %H:%M:%S %z")
    versions = f"jax {jax.__version__}, Python {sys.version.split()[0]}"
    mine = (
        f"{jax.local_device_count()} of {jax.device_count()} {jax.devices()[0].device_kind} devices"
    )
    process = f"process {jax.process_index()} of {jax.process_count()}, pid {os.getpid()}"
    return f"=== {at}, {socket.gethostname()}, {process}, {mine}, {versions}: {' '.join(sys.argv)}"
