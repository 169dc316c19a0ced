"""Work in a process of its own: compiled programs, and an accelerator's memory, are gone when it ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from lumina_jax.cli import run_main
from lumina_jax.compile_cache import keep_compiled_programs


def in_child(function: Callable[..., Any], arguments: tuple) -> int | None:
    """Call `function(*arguments)` in a new process, errors in one line as in any command; its exit code.

    Ctrl-C reaches both: the child is waited for, which saves what it has. A child whose parent is killed gets SIGTERM.
    """
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_begin, args=(function, arguments))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.join()
        raise
    return process.exitcode


def _begin(function: Callable[..., Any], arguments: tuple) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_compiled_programs()
    run_main(lambda: function(*arguments))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
