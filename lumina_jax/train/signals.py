"""Ctrl-C and SIGTERM as a question that the loop asks between steps."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils


@contextmanager
def stop_on_signals() -> Iterator[Callable[[int], bool]]:
    """A test, given the step, of whether Ctrl-C or SIGTERM asked to stop; a second Ctrl-C interrupts at once.

    In a cluster JAX turns the SIGTERM of any one process into the same answer on all of them.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    stopping = threading.Event()

    def stop(number: int, _: Any) -> None:
        if stopping.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        print("\nstopping after this step; the run is being saved", file=sys.stderr)
        stopping.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        numbers = ()  # only the main thread may set handlers
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield lambda step: stopping.is_set()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
