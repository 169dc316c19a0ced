"""What a queue gives for a request: its rows while they are drawn, then its image, or why there is none."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Literal

import numpy as np

from lumina_jax.generated_image import GeneratedImage
from lumina_jax.sampling.batch import DrawnRow, Job

State = Literal["waiting", "running", "finished", "failed", "cancelled"]
OnRow = Callable[[DrawnRow], object]


class Ticket:
    """One request in a queue. Any thread may ask it; `begin`, `tell` and `fail` are for the queue."""

    def __init__(
        self,
        job: Job,
        prompt: str,
        paint: Callable[["Ticket", np.ndarray], GeneratedImage],
        withdraw: Callable[["Ticket"], object],
        on_row: OnRow | None = None,
    ):
        """`paint` makes the image of all codes [P, Q], `withdraw` takes the request out of its queue."""
        self.job, self.prompt = job, prompt
        self.state: State = "waiting"
        self.passes: int | None = None  # forward passes it took, once it is finished
        self._paint, self._withdraw, self._on_row = paint, withdraw, on_row
        self._rows: list[DrawnRow] = []
        self._error: BaseException | None = None
        self._image: GeneratedImage | None = None
        self._changed = threading.Condition()
        self._painting = threading.Lock()
        self._began = self._ended = 0.0

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in ("waiting", "running")

    @property
    def seconds(self) -> float:
        """From the slot it was given to its last code."""
        return (self._ended or time.monotonic()) - self._began if self._began else 0.0

    def rows(self) -> Iterator[DrawnRow]:
        """Rows of codes, top to bottom, as they are decided: waits for each, ends with the last, raises as `result`."""
        for index in range(len(self.job.plan.runs)):
            with self._changed:
                self._changed.wait_for(lambda at=index: self.done or len(self._rows) > at)
                if index >= len(self._rows):
                    raise self._reason()
            yield self._rows[index]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, at most `timeout` seconds, until nothing more will come; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self.done, timeout)

    def result(self, timeout: float | None = None) -> GeneratedImage:
        """The image; its pixels are computed by the first thread that asks.

        Raises what went wrong, CancelledError where it was given up, TimeoutError after `timeout` seconds.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"no image after {timeout} seconds: {self.state}")
        if self.state != "finished":
            raise self._reason()
        with self._painting:
            if self._image is None:
                codes = np.concatenate([row.codes[0] for row in self._rows])
                self._image = self._paint(self, codes.reshape(self.job.plan.shape))
            return self._image

    def cancel(self) -> bool:
        """Give the request up, whether it waits or is being drawn; False where it is done already."""
        with self._changed:
            if self.done:
                return False
            self._end("cancelled", None)
        self._withdraw(self)
        return True

    def begin(self) -> bool:
        """Its drawing begins; False where it was given up meanwhile."""
        with self._changed:
            if self.done:
                return False
            self.state, self._began = "running", time.monotonic()
            return True

    def tell(self, row: DrawnRow) -> None:
        """One more row, with its number of passes the last; what `on_row` raises ends this request alone."""
        if self.done:
            return
        try:
            if self._on_row is not None:
                self._on_row(row)
        except Exception as error:
            self.fail(error)
        with self._changed:
            if self.done:
                return
            self._rows.append(row)
            self._changed.notify_all()
            if row.passes is not None:
                self.passes = row.passes
                self._end("finished", None)

    def fail(self, error: BaseException) -> None:
        """It cannot be drawn; nothing where it is done already."""
        with self._changed:
            if not self.done:
                self._end("failed", error)

    def _end(self, state: State, error: BaseException | None) -> None:
        self.state, self._error, self._ended = state, error, time.monotonic()
        self._changed.notify_all()

    def _reason(self) -> BaseException:
        return self._error or CancelledError(f"{self.prompt!r}: given up before it was finished")
