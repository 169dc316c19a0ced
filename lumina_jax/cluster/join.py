"""Joining the cluster of a process, or saying in one line why not."""

import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from lumina_jax.cli import Distributed
from lumina_jax.cluster.devices import local_devices
from lumina_jax.cluster.ending import end_at_once
from lumina_jax.cluster.environments import Environment, Variables, find_cluster
from lumina_jax.cluster.host_log import AGAIN, one_line, say
from lumina_jax.train.watchdog import EXIT_CODE

SPARE_SECONDS = (
    60  # that jax waits beyond our own limit, since it would abort without a word for us
)


def join_cluster(
    mode: Distributed = "auto", heartbeat_seconds: int = 100, join_seconds: int = 300
) -> bool:
    """Join the cluster that the environment tells of; False where there is none. The first process says what it joined.

    Call it before anything asks jax for devices. Raises ValueError for a wrong environment; where the others do not
    come within `join_seconds`, the process ends with EXIT_CODE.
    """
    import jax

    variables = os.environ
    found = find_cluster(mode, variables)
    if found is None:
        return False
    if min(heartbeat_seconds, join_seconds) < 1:
        raise ValueError(
            f"--heartbeat-seconds {heartbeat_seconds}, --join-seconds {join_seconds}: want 1 or more of both"
        )
    try:
        # without ids jax takes one device a process, also where it is the only one of its node
        devices = None if "JAX_LOCAL_DEVICE_IDS" in variables else local_devices(variables)
        options = {"local_device_ids": devices, **found.arguments(variables)}
        with _end_unless_joined(found, variables, join_seconds):
            jax.distributed.initialize(
                cluster_detection_method=found.method,
                heartbeat_timeout_seconds=heartbeat_seconds,
                initialization_timeout=join_seconds + SPARE_SECONDS,
                **options,
            )
    except jax.errors.JaxRuntimeError as error:
        say(
            f"error: {found.name}: cannot join ({one_line(error)}); it ends with code {EXIT_CODE}; {AGAIN}"
        )
        sys.exit(EXIT_CODE)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{found.name}: cannot join: {one_line(error)}; --distributed no runs without the others"
        ) from error
    try:
        if jax.process_index() == 0:  # looks for devices
            say(_summary(found, variables))
    except Exception as error:
        end_at_once(error)
    return True


@contextmanager
def _end_unless_joined(found: Environment, variables: Variables, seconds: int) -> Iterator[None]:
    """End the process unless what is within is done in time: jax itself would abort without a reason."""

    def end() -> None:
        address = variables.get("JAX_COORDINATOR_ADDRESS")
        place = f"{address} ({_state_of(address)})" if address else "on process 0"
        count = found.processes(variables)
        several = f" of {count} processes" if count else ""
        say(
            f"error: {found.name}: the cluster{several} was not complete within {seconds} seconds: another process did "
            f"not start or counts otherwise, or its coordinator {place} can't be reached; it ends with code "
            f"{EXIT_CODE}: start all of them again"
        )
        os._exit(EXIT_CODE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _state_of(address: str) -> str:
    """Whether somebody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except (OSError, ValueError) as error:
        return one_line(error)
    return "it answers"


def _summary(found: Environment, variables: Variables) -> str:
    """One line about the joined cluster."""
    import jax

    counts = sorted(set(Counter(device.process_index for device in jax.devices()).values()))
    # of GPUs too XLA counts slices: one a boot of a machine
    tpus = [device for device in jax.devices() if device.platform == "tpu"]
    slices = len({getattr(device, "slice_index", 0) for device in tpus})
    several = f" in {slices} slices" if slices > 1 else ""
    address = variables.get("JAX_COORDINATOR_ADDRESS") or socket.gethostname()
    return (
        f"cluster: {jax.process_count()} processes{several} with {' or '.join(map(str, counts))} "
        f"{jax.devices()[0].device_kind} devices each; coordinator {address}; found by {found.name}"
    )
