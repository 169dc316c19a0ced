"""Prompt files painted through a queue: on every device of this host, and on this host its share of the lines."""

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils

from lumina_jax.config import SampleConfig
from lumina_jax.lumina import Lumina
from lumina_jax.sampling.batch import Request, round_up
from lumina_jax.sampling.generate import batch_limit, prepare
from lumina_jax.sampling.jacobi import Sizes, padded_sizes
from lumina_jax.serving.image_folder import ImageFolder, claim_folder, origin
from lumina_jax.serving.prompt_file import PromptLine, share_of, with_place
from lumina_jax.serving.queue import Queue
from lumina_jax.serving.slots import rule_of, with_decoder_of
from lumina_jax.sharding import batch_ways


class Painted(NamedTuple):
    """How a run ended."""

    num_finished: int  # images of this host's share that are there now
    num_asked: int
    signal: int  # that stopped it before all were; 0 without


def paint_lines(
    model: Lumina,
    lines: Sequence[PromptLine],
    source: str | Path,
    folder: str | Path,
    *,
    resume: bool = False,
    settings: SampleConfig | None = None,
    batch: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Painted:
    """Paint this host's share of the lines of the prompt file `source` into a folder, with a bar on stderr.

    settings: what lines leave out; decoder, window and drafts hold for all. Default: the model's.
    batch: images at once on each device; default: as many as the cache has room for and the lines need.
    devices: default: all of this host. Ctrl-C and SIGTERM stop after the images that are complete.

    Raises ValueError of one line, before anything is drawn, for a line that the model cannot paint or a folder that
    holds something without `resume`; OSError where an image cannot be written, with all before it complete.
    """
    settings = settings or model.settings
    process, num_processes = jax.process_index(), jax.process_count()
    share = share_of(lines, process, num_processes)
    sizes, num_streams = check_lines(model, lines, Path(source), settings)
    folder = claim_folder(folder, resume)
    _wait_for_all("folder")  # before anybody writes into it
    wanted = {line.file: _origin(model, line, settings) for line in share}
    images = ImageFolder(folder, wanted, process, num_processes)
    todo = [line for line in share if line.file not in images.finished]
    # A model on a mesh is one place already; else every device gets the whole model.
    places = [None] if model.layout else list(devices or jax.local_devices())
    limit = batch_limit(model.config.transformer, sizes.num_slots, num_streams, model.layout)
    even = -(-len(lines) // (len(places) * num_processes))
    batch = round_up(batch or min(limit, 1 << (even - 1).bit_length()), batch_ways(model.layout))
    places = places[: max(1, -(-len(todo) // batch))]
    queue = Queue(
        model,
        sizes,
        batch,
        settings,
        None if places == [None] or (len(places) == 1 and not devices) else places,
        max_waiting=None,
    )
    with queue, _stop_on_signals() as stopped:
        try:
            _paint(queue, images, todo, stopped)
        except OSError as error:
            raise OSError(
                f"{folder}: {error.strerror or error}; {len(images.finished)} of {len(share)} images are finished and "
                "stay: make room and go on by --resume"
            ) from error
        finally:
            images.flush()
        if not stopped():  # a host that is told to go does not wait for the others
            _wait_for_all("end")
        return Painted(len(images.finished), len(share), stopped())


def check_lines(
    model: Lumina, lines: Sequence[PromptLine], source: Path, settings: SampleConfig
) -> tuple[Sizes, int]:
    """The padded sizes that all lines fit into, and the most streams that one has.

    Every host looks at all lines, so a line is drawn in the same sizes wherever that is. Raises ValueError of one line
    for the first that the model cannot paint.
    """
    shapes = []
    for line in lines:
        request = partial(_request, model, line, settings)
        [job] = with_place(
            source, line.number, lambda make=request: prepare(model.loaded, [make()])
        )
        longest = max(len(context) for context in job.contexts)
        shapes.append((longest, len(job.plan.sentence), len(job.contexts)))
    longest, sentence_length, num_streams = map(max, zip(*shapes, strict=True))
    return padded_sizes(longest, sentence_length, rule_of(settings)), num_streams


def _paint(
    queue: Queue,
    images: ImageFolder,
    todo: Sequence[PromptLine],
    stopped: Callable[[], int],
) -> None:
    """Keep the queue filled, write every image as it is finished, until all are or a signal came."""
    from tqdm import tqdm

    waiting, lines = deque(todo), {}
    num_codes, start = 0, time.monotonic()
    first = len(images.finished)
    with tqdm(total=first + len(todo), initial=first, unit="image", desc="painting") as bar:
        while len(images.finished) < first + len(todo) and not stopped():
            while waiting and queue.num_waiting < queue.num_slots:
                line = waiting.popleft()
                request = _request(queue.model, line, queue.settings)
                lines[queue.submit(request, line.prompt)] = line
            for ticket in queue.pump():
                line, image = lines.pop(ticket), ticket.result()
                notes = {"index": line.index, "passes": ticket.passes}
                images.add(line.file, image, {**notes, "seconds": round(ticket.seconds, 3)})
                num_codes += math.prod(ticket.job.plan.shape)
                speed = num_codes / (time.monotonic() - start)
                bar.set_postfix({"codes/s": f"{speed:.0f}"}, refresh=False)
                bar.update()


def _request(model: Lumina, line: PromptLine, settings: SampleConfig) -> Request:
    own = with_decoder_of(line.settings(settings), settings)
    return model.request(line.prompt, line.size or model.trained_size, line.seed, own)


def _origin(model: Lumina, line: PromptLine, settings: SampleConfig) -> dict[str, Any]:
    request = _request(model, line, settings)
    assert request.settings is not None
    size = request.width_px, request.height_px
    made_by = model.checkpoint, model.precision
    return origin(line.prompt, size, line.seed, request.settings, *made_by)


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"paint_lines {name}")


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], int]]:
    """What signal asked to stop, Ctrl-C or SIGTERM, 0 before; a second Ctrl-C interrupts at once."""
    caught: list[int] = []

    def stop(number: int, _: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    main = threading.current_thread() is threading.main_thread()  # others may set no handlers
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield lambda: caught[0] if caught else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
