"""What a run says while it goes on: log, curves, progress bar, and its steps without a finite loss."""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lumina_jax.config_json import config_to_dict
from lumina_jax.experiment import Experiment
from lumina_jax.train.flops import peak_flops
from lumina_jax.train.metrics import KindMeans, MetricsLog, Progress, numbers
from lumina_jax.train.nonfinite import NonFiniteSteps, is_finite
from lumina_jax.train.trainees import Trainee
from lumina_jax.train.wandb_log import WandbLog

Batch = Mapping[str, np.ndarray]


def say(line: str) -> None:
    """A line on the screen of the first process."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr)


class Report:
    """The numbers of one run, written by the first process and counted by all."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        trainee: Trainee,
        nonfinite: NonFiniteSteps,
        kinds: KindMeans,
        start_step: int,
        total_steps: int,
    ):
        self._nonfinite, self._kinds = nonfinite, kinds
        self._every, self._total = experiment.train.log_every, total_steps
        first = jax.process_index() == 0
        peak = peak_flops(jax.devices(), experiment.train.peak_tflops)
        self._flops = trainee.flops if peak else None
        self._share = len(trainee.rows.blocks) / trainee.rows.count
        self._log = MetricsLog(workdir, start_step, active=first)
        self._progress = Progress(start_step, total_steps, self._every, first, peak)
        self._wandb = None
        if experiment.train.wandb and first:
            self._wandb = WandbLog(experiment.train.wandb, workdir, config_to_dict(experiment))

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the time it takes counts as waiting."""
        began = time.perf_counter()
        batch = next(batches)
        self._progress.waited(time.perf_counter() - began)
        return batch

    def step(self, step: int, metrics: Any, batch: Batch) -> None:
        """Wait for a step's metrics, show and log them.

        Raises NonFiniteLoss where one step too many has no finite loss.
        """
        metrics = jax.device_get(metrics)
        values = numbers(metrics)
        # every process loads as many rows as this one, some the same
        flops = self._flops(batch) / self._share if self._flops else 0.0
        speed = self._progress.update(step, values, flops)
        if not is_finite(values):
            self._nonfinite.add(step, values, batch)
            self.write(step, {"nonfinite": self._nonfinite.count, **speed})
            return
        self._kinds.add(metrics)
        if step % self._every == 0 or step == self._total:
            self.write(step, {**values, **self._kinds.take(), **speed})

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON."""
        return {"nonfinite": self._nonfinite.count, "kinds": self._kinds.sums}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """A line of the log."""
        self._log.write(step, values)
        if self._wandb is not None:
            self._wandb.write(step, values)

    def flush(self) -> None:
        """See that a reader finds all that was written."""
        self._log.flush()

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        """Finish files, bar and curves."""
        self._progress.close()
        self._log.close()
        if self._wandb is not None:
            self._wandb.close(exit_code=0 if error is None else 1)
