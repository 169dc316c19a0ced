"""The training loop: the only place of a run with side effects. Resuming is starting again."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lumina_jax.checkpoint import (
    NO_PART,
    CheckpointError,
    digest,
    load_model,
    read_config,
    save_model,
)
from lumina_jax.config_json import config_to_dict
from lumina_jax.experiment import Experiment
from lumina_jax.paths import as_path
from lumina_jax.sharding import Layout, batch_sharding, make_layout, replicated
from lumina_jax.train.checkpoints import TrainCheckpoints
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.metrics import KindMeans, MetricsLog, Progress, draw_curve
from lumina_jax.train.trainees import Trainee, make_trainee
from lumina_jax.train.workdir import claim_workdir

OnEval = Callable[[Any, int, Path], Mapping[str, float]]  # (state, step, workdir) -> metrics


class NonFiniteLoss(ValueError):
    """The loss or its gradient became NaN or infinite; the last good checkpoint is kept."""


def train(
    experiment: Experiment,
    workdir: str | Path,
    *,
    init: str | Path | None = None,
    data_dir: str | Path | None = None,
    on_eval: OnEval | None = None,
) -> Path:
    """Train to the end, or from the last checkpoint in `workdir` on; returns the released model's folder.

    `init`: a model checkpoint whose weights start a fresh run. `data_dir`: where drawn and tokenised data are
    kept, shared by runs (default: workdir/data). Ctrl-C and SIGTERM save and return. Raises ValueError for a
    workdir of another config, and NonFiniteLoss naming the step.
    """
    workdir = as_path(workdir)
    curriculum = Curriculum(experiment.train.stages)
    layout = make_layout(experiment.train.mesh)
    _check_batches(experiment, layout)
    trainee = make_trainee(experiment, curriculum, layout, init)
    claim_workdir(experiment, workdir, trainee.made_with)
    checkpoints = TrainCheckpoints(workdir, experiment.train.keep_last)
    try:
        run = _Run(experiment, workdir, trainee, curriculum, layout, checkpoints, on_eval)
        state = run.start(init)
        batches = trainee.batches(data_dir or workdir / "data")(int(state.step))
        run.to_the_end(state, batches)
    finally:
        checkpoints.close()
    return workdir / "model"


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        trainee: Trainee,
        curriculum: Curriculum,
        layout: Layout,
        checkpoints: TrainCheckpoints,
        on_eval: OnEval | None,
    ):
        self.experiment, self.workdir, self.trainee = experiment, workdir, trainee
        self.curriculum, self.checkpoints, self.on_eval = curriculum, checkpoints, on_eval
        self.kinds = KindMeans()
        self.seed_key = jax.random.key(experiment.train.seed)
        self.abstract = jax.eval_shape(trainee.init, self.seed_key)
        self.shardings = trainee.shardings(self.abstract)
        self.batch_sharding = batch_sharding(layout)
        whole = replicated(layout)

        def step(state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
            rate = curriculum.learning_rate(state.step)
            key = jax.random.fold_in(self.seed_key, state.step + 1)  # 0 drew the initial weights
            state, metrics = trainee.step(state, batch, key)
            return state, {**metrics, "lr": rate}

        self.step = jax.jit(
            step,
            in_shardings=(self.shardings, self.batch_sharding),
            out_shardings=(self.shardings, whole),
            donate_argnums=0,
        )

    def start(self, init: str | Path | None) -> Any:
        """The newest intact checkpoint's state, else a fresh one."""
        placed = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self.abstract,
            self.shardings,
        )
        saved = self.trainee.saved
        restored = self.checkpoints.restore(saved(placed))
        if restored is not None:
            state, notes = restored
            self.kinds = KindMeans(notes.get("kinds"))
            self._say(f"resuming {self.workdir} at step {int(state.step)}")
        else:
            key = jax.random.fold_in(self.seed_key, 0)
            draw = _jit_for_one_call(
                lambda key: saved(self.trainee.init(key)), out_shardings=saved(self.shardings)
            )
            state = draw(key)
        if init is not None and (restored is None or self.trainee.needs_init):
            part = self.experiment.trainee
            places = {part: self.trainee.weight_shardings()}
            weights = load_model(init, parts=(part,), shardings=places).params[part]
            self._compare_codes(init)
            place = _jit_for_one_call(self.trainee.with_weights, out_shardings=self.shardings)
            state = place(state, weights)
            if restored is None:
                self._say(f"starting from the weights of {init}")
        return state

    def _compare_codes(self, init: str | Path) -> None:
        """Warn of weights that were trained on the codes of another VQGAN."""
        theirs, ours = digest(init, "vqgan"), self.trainee.made_with.get("vqgan")
        if ours and theirs not in (ours, NO_PART):
            self._say(
                f"warning: {init} was trained with another VQGAN than these assets; its image codes mean others"
            )

    def to_the_end(self, state: Any, batches: Iterator[Mapping[str, np.ndarray]]) -> None:
        """Train until the curriculum ends or a signal asks to stop; save either way."""
        settings, total = self.experiment.train, self.curriculum.total_steps
        step = self.saved = int(state.step)
        pending: tuple[int, Any] | None = None
        with ExitStack() as stack:
            first = jax.process_index() == 0
            self.log = stack.enter_context(closing(MetricsLog(self.workdir, step, active=first)))
            self.progress = stack.enter_context(
                closing(Progress(step, total, settings.log_every, first))
            )
            asked_to_stop = stack.enter_context(_stop_on_signals())
            while step < total and not asked_to_stop(step):
                state, metrics = self.step(state, self._place(next(batches)))
                step += 1
                if pending is not None:  # one step late, so the devices never wait for the host
                    self._report(*pending)
                pending = (step, metrics)
                saves = step % settings.save_every == 0 or step == total
                shows = settings.eval_every > 0 and step % settings.eval_every == 0
                if saves or shows:
                    self._report(*pending)
                    pending = None
                if saves:
                    self._save(step, state)
                if shows and self.on_eval:
                    self.log.write(
                        step, self.on_eval(self.trainee.whole(state), step, self.workdir)
                    )
                    self.log.flush()
            if pending is not None:
                self._report(*pending)
            if step > self.saved or not self._is_released(step):
                self._save(step, state)
            self.checkpoints.wait()
        if first:
            draw_curve(self.workdir, self.curriculum.boundaries)
        self._say(
            f"{'finished' if step == total else 'stopped'} at step {step}: {self.workdir / 'model'}"
        )

    def _report(self, step: int, metrics: Any) -> None:
        """Show and log a step's metrics; NonFiniteLoss when its loss is not a number."""
        values = self.kinds.add(jax.device_get(metrics))
        loss, gradient = values["loss"], values["grad_norm"]
        if not np.isfinite([loss, gradient]).all():
            raise NonFiniteLoss(
                f"step {step}: the loss is {loss}, the norm of its gradient {gradient}; the checkpoint of step "
                f"{self.checkpoints.latest() or 0} is intact: lower the learning rate or clip_norm"
            )
        speed = self.progress.update(step, values)
        if step % self.experiment.train.log_every == 0 or step == self.curriculum.total_steps:
            self.log.write(step, {**values, **self.kinds.take(), **speed})

    def _save(self, step: int, state: Any) -> None:
        """A checkpoint to resume from, written in the background, and the released model."""
        self.saved = step
        self.log.flush()  # before the checkpoint: a run that resumes there finds every line up to it
        if self.checkpoints.latest() != step:
            notes = {"step": step, "seed": self.experiment.train.seed, "kinds": self.kinds.sums}
            self.checkpoints.save(step, self.trainee.saved(state), notes)
        notes = {"step": step, "trainee": self.experiment.trainee}
        notes["sample"] = config_to_dict(self.experiment.sample)
        trees, model = self.trainee.release(state), self.experiment.model
        save_model(self.workdir / "model", trees, model, self.trainee.tokenizer, notes)
        self.trainee.export(state, self.workdir)

    def _is_released(self, step: int) -> bool:
        """Whether `model/` holds this step: a kill between a checkpoint and its model leaves an older one."""
        try:
            return read_config(self.workdir / "model")[1].get("step") == step
        except CheckpointError:
            return False

    def _place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        place = jax.make_array_from_process_local_data
        return {name: place(self.batch_sharding, rows) for name, rows in batch.items()}

    def _say(self, line: str) -> None:
        if jax.process_index() == 0:
            print(line, file=sys.stderr)


def _check_batches(experiment: Experiment, layout: Layout) -> None:
    """ValueError for a stage whose batch the mesh cannot split."""
    sharding = batch_sharding(layout)
    parts = experiment.train.accumulation
    for index, stage in enumerate(experiment.train.stages):
        try:
            sharding.shard_shape((stage.batch_size // parts, 1))
        except ValueError:
            times = f" in {parts} micro-batches" if parts > 1 else ""
            raise ValueError(
                f"train.stages.{index}.batch_size {stage.batch_size}{times} does not divide over the mesh "
                f"{dict(sharding.mesh.shape)}: use a multiple of {'accumulation times ' * (parts > 1)}its batch axes"
            ) from None


def _jit_for_one_call(function: Callable, **options: Any) -> Callable:
    """`jax.jit` without what the CPU's compiler does for speed: drawing weights compiles six times faster."""
    if jax.default_backend() == "cpu":
        options["compiler_options"] = {"xla_backend_optimization_level": 0}
    return jax.jit(function, **options)


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[int], bool]]:
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
