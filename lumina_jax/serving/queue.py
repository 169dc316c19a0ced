"""A queue that keeps slots full: a finished image makes room for the next request.

    with Queue(model).start() as queue:
        ticket = queue.submit(model.request("a red dome", (128, 96), seed=1), "a red dome")
        for row in ticket.rows():
            ...
        ticket.result().save("dome.png")

The padded sizes are chosen once, so nothing compiles after the first requests, whatever their sizes, prompts and
settings. Requests with 1, 2 and 3 streams have slots of their own, made when the first of them comes. A
page or an API calls `start`, which pumps on a thread; a program that only draws calls `drain`, which pumps where it is.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import jax
import numpy as np

from lumina_jax.config import SampleConfig
from lumina_jax.generated_image import GeneratedImage
from lumina_jax.lumina import Lumina
from lumina_jax.sampling.batch import Job, Network, Request, round_up
from lumina_jax.sampling.generate import batch_limit, finish, network_of, prepare
from lumina_jax.sampling.jacobi import Sizes, Slots
from lumina_jax.serving.slots import (
    check_fit,
    empty_slots,
    queue_sizes,
    rule_of,
    with_decoder_of,
)
from lumina_jax.serving.ticket import OnRow, Ticket
from lumina_jax.sharding import batch_ways

MAX_WAITING = 256  # requests that wait for a slot, unless a queue is told otherwise


class QueueFull(RuntimeError):
    """A queue that takes no more requests now."""


@dataclass
class _Group:
    """The slots of one device for requests with equally many streams, and whose they are."""

    slots: Slots
    tickets: dict[int, Ticket] = field(default_factory=dict)  # by `Job.index`


class Queue:
    """Requests of any size, prompt and settings, drawn side by side, first come first served."""

    def __init__(
        self,
        model: Lumina,
        sizes: Sizes | None = None,
        num_slots: int | None = None,
        settings: SampleConfig | None = None,
        devices: Sequence[Any] | None = None,
        max_waiting: int | None = MAX_WAITING,
    ):
        """An empty queue.

        sizes: what every request must fit into; default: `queue_sizes`.
        num_slots: requests drawn at once on each device; default: as many as the cache has room for.
        settings: of requests without their own; decoder, window and drafts hold for all. Default: the model's.
        devices: each gets a copy of the weights; default: the model's weights where they are.
        max_waiting: requests beyond those that are being drawn, None without limit.
        """
        self.model, self.settings = model, settings or model.settings
        self.rule = rule_of(self.settings)
        self.sizes = sizes or queue_sizes(model, self.settings)
        transformer = model.config.transformer
        limit = batch_limit(transformer, self.sizes.num_slots, 2, model.layout)
        self.num_slots = round_up(num_slots or limit, batch_ways(model.layout))
        self._devices: list[Any] = list(devices) if devices else [None]
        self._network = network_of(model.loaded)
        self._networks = [_on_device(self._network, device) for device in self._devices]
        self._max_waiting = max_waiting
        self._groups: dict[tuple[int, int], _Group] = {}  # by (place among the devices, streams)
        self._waiting: dict[int, deque[Ticket]] = {}  # by streams
        self._withdrawn: list[Ticket] = []
        self._indices = count()
        self._changed = threading.Condition()  # guards _waiting, _withdrawn and _closed
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, request: Request, prompt: str = "", on_row: OnRow | None = None) -> Ticket:
        """Add a request, from any thread. `prompt` is written into the image's metadata.

        `on_row` is called with every row of codes by the thread that pumps; what it raises ends this request alone.
        Raises ValueError of one line for a request that can never be drawn here, QueueFull where too many wait,
        RuntimeError after `close`.
        """
        ticket = Ticket(self.check(request), prompt, self._paint, self._withdraw, on_row)
        with self._changed:
            if self._closed:
                raise RuntimeError("queue closed: it takes no more requests")
            if self._max_waiting is not None and self.num_waiting >= self._max_waiting:
                raise QueueFull(f"queue full: {self.num_waiting} requests wait; try again later")
            self._waiting.setdefault(len(ticket.job.contexts), deque()).append(ticket)
            self._changed.notify_all()
        return ticket

    def check(self, request: Request) -> Job:
        """A request as it would be drawn here; ValueError of one line where it cannot be."""
        settings = with_decoder_of(request.settings or self.settings, self.settings)
        if settings.grammar != "exact":
            raise ValueError(
                f"grammar {settings.grammar!r}: a queue draws the asked size; want grammar 'exact'"
            )
        [job] = prepare(self.model.loaded, [replace(request, settings=settings)])
        check_fit(job, self.sizes, self.rule)
        return job._replace(index=next(self._indices))

    @property
    def num_waiting(self) -> int:
        """Requests that have no slot yet."""
        return sum(len(waiting) for waiting in self._waiting.values())

    @property
    def num_running(self) -> int:
        """Requests that are being drawn."""
        return sum(len(group.tickets) for group in list(self._groups.values()))

    def pump(self) -> list[Ticket]:
        """One round: fill free slots, let every device draw on, hand out rows. Returns what was finished or failed."""
        self._drop_withdrawn()
        done = self._fill()
        for place, group in list(self._groups.items()):
            if group.slots.busy:
                done += self._advance(place, group)
        return done

    def drain(self) -> Iterator[Ticket]:
        """Pump until nothing is left; tickets as they are finished or failed. Not on a queue that was started."""
        while self._has_work():
            yield from self.pump()

    def start(self) -> "Queue":
        """Pump on a thread of its own until `close`."""
        self._thread = threading.Thread(target=self._run, name="queue", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Take no more requests and give up those that are not finished."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for ticket in self._unfinished():
            ticket.cancel()

    def __enter__(self) -> "Queue":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm_up(self, request: Request) -> None:
        """Compile, on every device, all that requests with as many streams need, and the pixels of this one's size.

        Only for a queue that has no requests yet.
        """
        job = self.check(request)
        for place in range(len(self._devices)):
            slots = self._group(place, len(job.contexts)).slots
            for _ in range(2):  # read, then shared
                slots.put(0, job)
                slots.drop(job)
                slots.step()
        result = finish(job, np.zeros(job.plan.shape, np.int32), self._network)
        self.model.finish(result, "", request.seed, job.settings)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._has_work())
                    if self._closed:
                        return
                self.pump()
        except BaseException as error:
            self._closed = True
            for ticket in self._unfinished():
                ticket.fail(error)
            raise

    def _has_work(self) -> bool:
        busy = any(group.slots.busy for group in self._groups.values())
        return busy or self.num_waiting > 0 or bool(self._withdrawn)

    def _unfinished(self) -> list[Ticket]:
        with self._changed:
            waiting = [ticket for tickets in self._waiting.values() for ticket in tickets]
        return [ticket for group in self._groups.values() for ticket in group.tickets.values()] + (
            waiting
        )

    def _fill(self) -> list[Ticket]:
        """Give slots to those that wait; returns those that could not begin."""
        failed = []
        for num_streams in list(self._waiting):
            while (place := self._roomiest(num_streams)) is not None:
                with self._changed:
                    if not self._waiting[num_streams]:
                        break
                    ticket = self._waiting[num_streams].popleft()
                if not ticket.begin():
                    continue
                try:
                    group = self._group(place, num_streams)
                    group.slots.put(group.slots.free[0], ticket.job)
                    group.tickets[ticket.job.index] = ticket
                except Exception as error:
                    ticket.fail(error)
                    failed.append(ticket)
        return failed

    def _roomiest(self, num_streams: int) -> int | None:
        """The device with the most free slots, None where all are taken."""
        groups = [self._groups.get((place, num_streams)) for place in range(len(self._devices))]
        room = [self.num_slots if group is None else len(group.slots.free) for group in groups]
        return room.index(max(room)) if max(room) else None

    def _group(self, place: int, num_streams: int) -> _Group:
        if (place, num_streams) not in self._groups:
            slots = empty_slots(
                self._networks[place],
                self.rule,
                self.sizes,
                self.num_slots,
                num_streams,
                self._devices[place],
            )
            self._groups[place, num_streams] = _Group(slots)
        return self._groups[place, num_streams]

    def _advance(self, place: tuple[int, int], group: _Group) -> list[Ticket]:
        """Draw on in one group. An error of the device takes its state along, and so all that is drawn in it."""
        try:
            rows = group.slots.step()
        except Exception as error:
            del self._groups[place]
            for ticket in group.tickets.values():
                ticket.fail(error)
            return list(group.tickets.values())
        done = []
        for row in rows:
            ticket = group.tickets[row.requests[0]]
            ticket.tell(row)
            if row.passes is not None:
                done.append(group.tickets.pop(row.requests[0]))
        for ticket in [each for each in group.tickets.values() if each.state == "failed"]:
            group.slots.drop(ticket.job)
            done.append(group.tickets.pop(ticket.job.index))
        return [ticket for ticket in done if ticket.state != "cancelled"]

    def _withdraw(self, ticket: Ticket) -> None:
        with self._changed:
            waiting = self._waiting[len(ticket.job.contexts)]
            if ticket in waiting:
                waiting.remove(ticket)
            else:
                self._withdrawn.append(ticket)
            self._changed.notify_all()

    def _drop_withdrawn(self) -> None:
        with self._changed:
            withdrawn, self._withdrawn = self._withdrawn, []
        for ticket in withdrawn:
            for group in self._groups.values():
                if group.tickets.pop(ticket.job.index, None) is not None:
                    group.slots.drop(ticket.job)

    def _paint(self, ticket: Ticket, codes: np.ndarray) -> GeneratedImage:
        job = ticket.job
        result = finish(job, codes, self._network)
        return self.model.finish(result, ticket.prompt, job.request.seed, job.settings)


def _on_device(network: Network, device: Any) -> Network:
    if device is None:
        return network
    return network._replace(params=jax.device_put(network.params, device))
