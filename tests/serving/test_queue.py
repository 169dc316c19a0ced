"""The queue: every request as it would be drawn alone, and slots that are kept full."""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace

import jax
import numpy as np
import pytest

from lumina_jax.config import SampleConfig
from lumina_jax.sampling import jacobi
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import generate
from lumina_jax.serving.queue import Queue, QueueFull
from lumina_jax.serving.slots import queue_sizes

GUIDED = SampleConfig(guidance=2.0, image_top_k=30)
ALONE = replace(GUIDED, guidance=1.0, image_top_p=0.8)
SMALL = 48, 32


@pytest.fixture(scope="module")
def requests(small_lumina) -> list[Request]:
    """Requests of mixed sizes, prompts, seeds and settings."""
    asked = [
        ("a red star", SMALL, 5, GUIDED),
        ("a small green circle, please.", (32, 64), 0, replace(GUIDED, temperature=0.7)),
        ("a", (16, 16), 3, ALONE),
        ("a purple square", SMALL, 5, replace(GUIDED, image_top_p=0.5)),
        ("It is red.", (64, 16), 9, replace(GUIDED, image_top_k=1)),
        ("a red star", SMALL, 6, replace(ALONE, temperature=2.0)),
    ]
    return [small_lumina.request(*one) for one in asked]


@pytest.fixture(scope="module")
def alone(small_lumina, requests) -> list[np.ndarray]:
    """Their codes, each drawn by the sequential decoder without neighbours."""
    drawn = [generate(small_lumina.loaded, [request])[0].codes for request in requests]
    return [codes for codes in drawn if codes is not None]


@pytest.fixture
def make_queue(small_lumina) -> Iterator[Callable[..., Queue]]:
    """Queues of two slots for small images; they are closed in the end."""
    made: list[Queue] = []

    def make(**options) -> Queue:
        sizes = queue_sizes(small_lumina, GUIDED, (32, 64), 64)
        given = {"sizes": sizes, "num_slots": 2, "settings": GUIDED, **options}
        made.append(Queue(small_lumina, **given))
        return made[-1]

    yield make
    for queue in made:
        queue.close()


def codes_of(ticket) -> np.ndarray:
    rows = [row.codes[0] for row in ticket.rows()]
    return np.concatenate(rows).reshape(ticket.job.plan.shape)


@pytest.mark.parametrize("order", [1, -1])
def test_mixed_requests_equal_those_drawn_alone(make_queue, requests, alone, order: int) -> None:
    queue = make_queue()
    tickets = [queue.submit(request) for request in requests[::order]]
    done = list(queue.drain())
    assert sorted(map(id, done)) == sorted(map(id, tickets))
    for ticket, wanted in zip(tickets, alone[::order], strict=True):
        np.testing.assert_array_equal(codes_of(ticket), wanted)
    assert (queue.num_waiting, queue.num_running) == (0, 0)


def test_image_of_a_queue_equals_the_models(make_queue, small_lumina, requests) -> None:
    queue = make_queue()
    ticket = queue.submit(requests[0], "a red star")
    list(queue.drain())
    image = ticket.result()
    wanted = small_lumina.generate("a red star", SMALL, 5, guidance=2.0, image_top_k=30)
    np.testing.assert_array_equal(image.pixels, wanted.pixels)
    assert image.metadata == wanted.metadata
    assert ticket.passes is not None and 0 < ticket.passes <= ticket.job.plan.sentence.size
    assert ticket.seconds > 0


def test_finished_request_makes_room_while_others_are_drawn(make_queue, small_lumina) -> None:
    queue = make_queue()
    long = queue.submit(small_lumina.request("a star", (32, 64), 1))
    short = [queue.submit(small_lumina.request("a", (16, 16), seed)) for seed in range(2)]
    assert [each.state for each in queue.drain()] == ["finished"] * 3
    assert short[1].seconds < long.seconds  # it began when the first made room, and ended before
    assert long._began < short[0]._ended <= short[1]._began < long._ended


def test_requests_on_several_devices_equal_those_on_one(make_queue, requests, alone) -> None:
    queue = make_queue(devices=jax.devices()[1:3], num_slots=1)
    guided = [index for index, request in enumerate(requests) if request.settings.guidance > 1]
    tickets = [queue.submit(requests[index]) for index in guided]
    queue.pump()
    assert queue.num_running == 2
    list(queue.drain())
    for ticket, index in zip(tickets, guided, strict=True):
        np.testing.assert_array_equal(codes_of(ticket), alone[index])


def test_shared_prompt_is_read_once(make_queue, small_lumina, monkeypatch) -> None:
    read = []
    admit = jacobi.admit
    monkeypatch.setattr(jacobi, "admit", lambda *args: read.append(args[2]) or admit(*args))
    queue = make_queue()
    star, circle = (
        [small_lumina.request(text, SMALL, seed, GUIDED) for seed in range(5)]
        for text in ("a red star", "a green circle")
    )
    tickets = [queue.submit(request) for request in [*star, circle[0], *star[:2]]]
    list(queue.drain())
    assert len(read) == 2
    for ticket, seed in zip(tickets[:5], range(5), strict=True):
        [wanted] = generate(small_lumina.loaded, [star[seed]])
        np.testing.assert_array_equal(codes_of(ticket), wanted.codes)


COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """An entry for every program that XLA compiles from now on."""
    events: list[str] = []

    def listen(event: str, *_: object, **__: object) -> None:
        events.extend([event] if event == COMPILED else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_nothing_compiles_over_fifty_mixed_requests_after_warm_up(
    make_queue, small_lumina, compiled
) -> None:
    sizes = [(16, 16), (48, 32), (32, 64), (64, 16)]
    queue = make_queue()
    for size in sizes:
        queue.warm_up(small_lumina.request("a", size, 0, GUIDED))
    queue.warm_up(small_lumina.request("a", sizes[0], 0, ALONE))
    compiled.clear()
    jax.jit(lambda x: x + 1.5)(np.ones(7))  # what is counted
    assert len(compiled) == 1
    words = "a small large red green purple circle star square please It is".split()
    rng = np.random.default_rng(0)
    tickets = []
    for seed in range(50):
        text = " ".join(rng.choice(words, rng.integers(1, 9)))
        settings = SampleConfig(
            guidance=float(rng.choice([1.0, 2.0, 3.5])),
            temperature=float(rng.uniform(0.5, 2)),
            image_top_k=int(rng.integers(1, 64)),
            image_top_p=float(rng.choice([1.0, 0.7])),
        )
        request = small_lumina.request(text, sizes[rng.integers(4)], seed, settings)
        tickets.append(queue.submit(request, text))
    assert len(list(queue.drain())) == 50
    images = [ticket.result() for ticket in tickets]
    assert len({image.size for image in images}) == 4
    assert len(compiled) == 1


def test_waiting_and_running_requests_can_be_cancelled(make_queue, requests, alone) -> None:
    queue = make_queue(num_slots=1)
    first, second, third = (queue.submit(requests[index]) for index in (0, 1, 3))
    queue.pump()
    assert [each.state for each in (first, second, third)] == ["running", "waiting", "waiting"]
    assert first.cancel() and second.cancel() and not second.cancel()
    assert list(queue.drain()) == [third]
    np.testing.assert_array_equal(codes_of(third), alone[3])
    with pytest.raises(CancelledError):
        first.result()
    assert not third.cancel()


def test_error_of_one_request_leaves_the_others(make_queue, requests, alone) -> None:
    def refuse(row) -> None:
        raise OSError("the listener went away")

    queue = make_queue()
    broken, whole = queue.submit(requests[1], on_row=refuse), queue.submit(requests[0])
    assert list(queue.drain())[0] is broken
    with pytest.raises(OSError, match="went away"):
        list(broken.rows())
    np.testing.assert_array_equal(codes_of(whole), alone[0])


def test_error_of_the_device_fails_what_is_drawn_and_the_queue_goes_on(
    make_queue, requests, alone, monkeypatch
) -> None:
    queue = make_queue()
    lost = queue.submit(requests[0])
    queue.pump()
    with monkeypatch.context() as patch:
        patch.setattr(jacobi, "advance", lambda *_: 1 / 0)
        assert queue.pump() == [lost]
    again = queue.submit(requests[0])
    list(queue.drain())
    with pytest.raises(ZeroDivisionError):
        lost.result()
    np.testing.assert_array_equal(codes_of(again), alone[0])


def test_thread_serves_submitters_and_rows_stream(make_queue, requests, alone) -> None:
    queue = make_queue().start()
    seen: list[int] = []
    tickets = [
        queue.submit(request, on_row=lambda row: seen.append(row.row_index)) for request in requests
    ]
    for ticket, wanted in zip(tickets, alone, strict=True):
        np.testing.assert_array_equal(codes_of(ticket), wanted)
        assert ticket.wait(60)
    assert len(seen) == sum(len(ticket.job.plan.runs) for ticket in tickets)
    queue.close()
    with pytest.raises(RuntimeError, match="queue closed"):
        queue.submit(requests[0])


def test_close_gives_up_what_is_not_finished(make_queue, requests) -> None:
    queue = make_queue(num_slots=1)
    tickets = [queue.submit(request) for request in requests[:3]]
    queue.pump()
    queue.close()
    assert {ticket.state for ticket in tickets} == {"cancelled"}
    with pytest.raises(CancelledError):
        tickets[0].result(timeout=1)


def test_full_queue_refuses_in_one_line(make_queue, requests) -> None:
    queue = make_queue(max_waiting=2)
    tickets = [queue.submit(request) for request in requests[:2]]
    with pytest.raises(QueueFull, match=r"^queue full: 2 requests wait; try again later$"):
        queue.submit(requests[2])
    tickets[0].cancel()
    queue.submit(requests[2])


def test_request_that_cannot_fit_is_refused_in_one_line(make_queue, small_lumina) -> None:
    queue = make_queue()
    refused = {
        "paints at most": small_lumina.request("a", (128, 128), 0),
        "more than this queue reads": small_lumina.request("a red star, please. " * 20, SMALL, 0),
        "want grammar 'exact'": small_lumina.request(
            "a", SMALL, 0, SampleConfig(grammar="original")
        ),
        "seed -1": small_lumina.request("a", SMALL, -1),
    }
    for message, request in refused.items():
        with pytest.raises(ValueError, match=message) as caught:
            queue.submit(request)
        assert "\n" not in str(caught.value)
    assert queue.num_waiting == 0
