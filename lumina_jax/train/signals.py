"""Ctrl-C and SIGTERM as a question that the loop asks between steps."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

STOPPED_CODE = (
    75  # EX_TEMPFAIL: of a run that a signal stopped before its last step; the same command goes on
)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[int], bool]]:
    """A test, given the step, of whether Ctrl-C or SIGTERM asked to stop; a second Ctrl-C interrupts at once.

    In a cluster JAX turns the SIGTERM of any one process into the same answer on all of them; Ctrl-C becomes one.
    """
    in_cluster, asked = jax.process_count() > 1, threading.Event()

    def stop(number: int, _: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        print("\nstopping after this step; the run is being saved", file=sys.stderr)
        if in_cluster:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX has its own handler of it

    numbers = (signal.SIGINT,) if in_cluster else (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        numbers = ()  # only the main thread may set handlers
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        if in_cluster:
            yield multihost_utils.reached_preemption_sync_point
        else:
            yield lambda step: asked.is_set()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
