"""Signals ask the loop to stop; a second Ctrl-C interrupts it."""

import os
import signal

import jax
import pytest

from lumina_jax.train.signals import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_a_second_ctrl_c_interrupts(number):
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as asked_to_stop:
        assert not asked_to_stop(1)
        os.kill(os.getpid(), number)
        assert asked_to_stop(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_a_cluster_ctrl_c_is_a_sigterm(monkeypatch):
    """JAX, which has its own handler of that signal there, tells all processes."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    found: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: found.append(number))
    try:
        with stop_on_signals():
            os.kill(os.getpid(), signal.SIGINT)
            assert found == [signal.SIGTERM]
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert found == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
