"""A run's numbers: `metrics.jsonl` (one object a line), TensorBoard events, and the loss curve as a picture.

Nothing can be appended to an object in a bucket: there the lines are kept in memory and the events in a local folder,
and both are written whole every FLUSH_SECONDS, at every save and evaluation, and at the end.
"""

import io
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lumina_jax.paths import as_path, copy_folder, is_remote, write_bytes
from lumina_jax.plots import new_figure, png
from lumina_jax.unirep.kinds import AREAS_PX, TASK_NAMES

FILE = "metrics.jsonl"
CURVE = "loss.png"
FLUSH_SECONDS = 60.0
# A step's sums and counts of cross-entropy by kind, [2, kinds], and the kinds' names in the log.
KINDS: Mapping[str, tuple[str, ...]] = {
    "by_modality": ("ce_image", "ce_text"),
    "by_task": tuple(f"ce/task/{name}" for name in TASK_NAMES),
    "by_area": tuple(f"ce/area/{side_px}" for side_px in AREAS_PX),
}


class MetricsLog:
    """Writes a run's metrics; a resumed run first drops the lines past the step it restarts from."""

    def __init__(self, workdir: str | Path, start_step: int = 0, active: bool = True):
        self._active = active
        self._file = as_path(workdir) / FILE
        self._events = None
        self._remote = is_remote(self._file)
        if not active:
            return
        kept = [line for line in _lines(self._file) if json.loads(line)["step"] <= start_step]
        text = "".join(f"{line}\n" for line in kept)
        self._events_folder = self._file.parent / "events"
        if self._remote:
            self._stream: Any = io.StringIO()
            self._stream.write(text)
            self._events_folder = Path(tempfile.mkdtemp(prefix="events-"))
            self._flushed = 0.0
            self.flush()
        else:
            write_bytes(self._file, text.encode())  # a kill here leaves the lines there were
            self._stream = self._file.open("a")
        suffix = f".{self._events_folder.name}" if self._remote else ""  # two runs in one second
        self._events = _event_writer(self._events_folder, start_step, suffix)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line: {"step": 20, "loss": 3.25, …}; numbers as floats in full precision."""
        if not self._active:
            return
        numbers = {name: float(value) for name, value in values.items()}
        self._stream.write(json.dumps({"step": step, **numbers}) + "\n")
        if self._events is not None:
            for name, value in numbers.items():
                self._events.add_scalar(name, value, step)
        if not self._remote:
            self._stream.flush()
        elif time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """See that a reader finds all that was written; the lines of a local file he finds at once."""
        if not (self._active and self._remote):
            return
        write_bytes(self._file, self._stream.getvalue().encode())
        if self._events is not None:
            self._events.flush()
            copy_folder(self._events_folder, self._file.parent / "events")
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Finish the files."""
        self.flush()
        if self._active:
            self._stream.close()
        if self._events is not None:
            self._events.close()
            if self._remote:
                shutil.rmtree(self._events_folder, ignore_errors=True)


class KindMeans:
    """Cross-entropy per token of every kind, over the steps since it was last asked for.

    `sums`: those of another, as JSON, so that a resumed run goes on with the sums of the line that was begun.
    """

    def __init__(self, sums: Mapping[str, Any] | None = None):
        self._sums = {name: np.asarray(rows, np.float64) for name, rows in (sums or {}).items()}

    @property
    def sums(self) -> dict[str, list]:
        """What has been added since, as JSON."""
        return {name: array.tolist() for name, array in self._sums.items()}

    def add(self, metrics: Mapping[str, Any]) -> None:
        """The arrays of KINDS in a step's metrics, on the host."""
        for name in KINDS.keys() & metrics.keys():
            self._sums[name] = self._sums.get(name, 0.0) + np.asarray(metrics[name], np.float64)

    def take(self) -> dict[str, float]:
        """{"ce_image": 3.1, "ce/task/text_to_image": 3.2, "ce/area/512": …}, kinds that were there; and forget."""
        sums, self._sums = self._sums, {}
        return named_means(sums)


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a step, on the host, that are numbers: all but the arrays of KINDS."""
    return {name: float(value) for name, value in metrics.items() if name not in KINDS}


def named_means(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The means by name, of every kind that has a count, of arrays [2, kinds] of sums and counts.

    >>> named_means({"by_modality": np.array([[6.0, 0.0], [2.0, 0.0]])})
    {'ce_image': 3.0}
    """
    return {
        label: float(total / count)
        for name, labels in KINDS.items()
        if name in sums
        for label, total, count in zip(labels, *sums[name], strict=True)
        if count > 0
    }


class Progress:
    """The progress bar, and speed over the steps since the last log line."""

    def __init__(
        self,
        first: int,
        total: int,
        log_every: int,
        active: bool = True,
        peak_flops: float | None = None,
    ):
        """`peak_flops`: FLOP/s of all devices together, for `mfu`."""
        from tqdm import tqdm

        off = not active
        self._bar = tqdm(total=total, initial=first, unit="step", disable=off, mininterval=1.0)
        self._every, self._peak = log_every, peak_flops
        self._begin()

    def _begin(self) -> None:
        self._since = time.perf_counter()
        self._tokens = self._flops = self._waited = 0.0
        self._steps = 0

    def waited(self, seconds: float) -> None:
        """The loop stood still so long for a batch."""
        self._waited += seconds

    def update(
        self, step: int, values: Mapping[str, float], flops: float = 0.0
    ) -> dict[str, float]:
        """Advance to `step`, of `flops` model FLOPs; where a log line is due, the speed since the last, else {}.

        "steps_per_s", "tokens_per_s" (predicted ones), "data_wait": share of the time spent waiting for batches,
        "mfu": model FLOPs over what the devices could have done, where both are known.
        """
        self._bar.update(step - self._bar.n)
        self._tokens += values.get("tokens", 0.0)
        self._flops += flops
        self._steps += 1
        if step % self._every:
            return {}
        seconds = time.perf_counter() - self._since
        speed = {"steps_per_s": self._steps / seconds, "data_wait": self._waited / seconds}
        if self._tokens:
            speed["tokens_per_s"] = self._tokens / seconds
        if self._peak and self._flops:
            speed["mfu"] = self._flops / seconds / self._peak
        shown = {"loss": f"{values['loss']:.4f}", "lr": f"{values['lr']:.1e}"}
        if "psnr" in values:
            shown["psnr"] = f"{values['psnr']:.1f}"
        if self._tokens:
            shown["tokens/s"] = f"{speed['tokens_per_s']:.0f}"
        self._bar.set_postfix(shown)
        self._begin()
        return speed

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def read_metrics(workdir: str | Path) -> list[dict[str, float]]:
    """The lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in _lines(as_path(workdir) / FILE)]


def draw_curve(workdir: str | Path, boundaries: tuple[int, ...] = ()) -> Path | None:
    """Draw the training loss over steps, stage boundaries dotted; None where there is too little to draw."""
    rows = [row for row in read_metrics(workdir) if "loss" in row]
    if len(rows) < 2:
        return None
    figure = new_figure(7, 4)
    axes = figure.add_subplot(xlabel="step", ylabel="training loss")
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=1)
    for boundary in boundaries:
        axes.axvline(boundary, color="grey", linestyle=":", linewidth=1)
    if all(row["loss"] > 0 for row in rows):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    path = as_path(workdir) / CURVE
    write_bytes(path, png(figure))
    return path


def _lines(file: Path) -> list[str]:
    """The complete lines; a kill may have cut the last one."""
    if not file.exists():
        return []
    *lines, _ = file.read_text().split("\n")
    return [line for line in lines if line]


def _event_writer(folder: Path, start_step: int, suffix: str = "") -> Any:
    """A TensorBoard writer, None where `tensorboardX` is absent."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    purge_step = start_step + 1 if start_step else None
    return SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=suffix)
