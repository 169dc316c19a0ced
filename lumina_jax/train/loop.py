"""The training loop: the only place of a run with side effects. Resuming is starting again."""

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

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
from lumina_jax.sharding import Layout, batch_sharding, make_layout
from lumina_jax.train.checkpoints import TrainCheckpoints
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.held_out import HeldOut, check_apart, held_out_experiment
from lumina_jax.train.metrics import KindMeans, draw_curve
from lumina_jax.train.nonfinite import NonFiniteSteps
from lumina_jax.train.placing import place_batch
from lumina_jax.train.program import check_batches, train_program
from lumina_jax.train.reporting import Batch, Report, say
from lumina_jax.train.signals import stop_on_signals
from lumina_jax.train.trainees import Trainee, make_trainee
from lumina_jax.train.wandb_log import import_wandb
from lumina_jax.train.watchdog import Watchdog
from lumina_jax.train.workdir import claim_workdir

OnEval = Callable[[Any, int, Path], Mapping[str, float]]  # (state, step, workdir) -> metrics


class Outcome(NamedTuple):
    """What a run left when it returned."""

    model: Path  # the released model's folder
    finished: bool  # whether its last step is done; else a signal stopped it before


def train(
    experiment: Experiment,
    workdir: str | Path,
    *,
    init: str | Path | None = None,
    data_dir: str | Path | None = None,
    on_eval: OnEval | None = None,
) -> Outcome:
    """Train to the end, or from the last checkpoint in `workdir` on.

    `init`: a model checkpoint whose weights start a fresh run. `data_dir`: where drawn and tokenised data are
    kept, shared by runs (default: workdir/data). Ctrl-C and SIGTERM save and return. Raises ValueError for a
    workdir of another config, and NonFiniteLoss (train/nonfinite.py) naming the step and its records. A hang ends
    the process (train/watchdog.py).
    """
    workdir = as_path(workdir)
    data_dir = as_path(data_dir or workdir / "data")
    curriculum = Curriculum(experiment.train.stages)
    layout = make_layout(experiment.train.mesh)
    check_batches(experiment, layout)
    if experiment.train.wandb:
        import_wandb()
    trainee = make_trainee(experiment, curriculum, layout, init)
    claim_workdir(experiment, workdir, trainee.made_with)
    keep = experiment.train.keep_last, experiment.train.keep_every
    checkpoints = TrainCheckpoints(workdir, *keep)
    try:
        run = _Run(experiment, workdir, trainee, curriculum, layout, checkpoints, on_eval)
        state = run.start(init)
        run.open_data(data_dir, init)
        finished = run.to_the_end(state)
    finally:
        checkpoints.close()
    return Outcome(workdir / "model", finished)


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
        self.seed_key = jax.random.key(experiment.train.seed)
        self.step, self.abstract, _ = train_program(
            experiment,
            curriculum,
            layout,
            init=trainee.init,
            step=trainee.step,
            shardings=trainee.shardings,
        )
        self.shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        self.layout, self.batch_sharding = layout, batch_sharding(layout)
        self.compiled: set[tuple[Hashable, ...]] = set()  # programs that have run once
        self.meta: Mapping[str, Any] = {}  # of the checkpoint that the run goes on from

    def start(self, init: str | Path | None) -> Any:
        """The newest intact checkpoint's state, else a fresh one."""
        saved = self.trainee.saved
        restored = self.checkpoints.restore(saved(self.abstract))
        if restored is not None:
            state, self.meta = restored
            say(f"resuming {self.workdir} at step {int(state.step)}")
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
                say(f"starting from the weights of {init}")
        return state

    def _compare_codes(self, init: str | Path) -> None:
        """Warn of weights that were trained on the codes of another VQGAN."""
        theirs, ours = digest(init, "vqgan"), self.trainee.made_with.get("vqgan")
        if ours and theirs not in (ours, NO_PART):
            say(
                f"warning: {init} was trained with another VQGAN than these assets; its image codes mean others"
            )

    def open_data(self, data_dir: Path, init: str | Path | None) -> None:
        """Make or find what the run reads."""
        train, ids = self.experiment.train, self.trainee.record_ids
        self.batches = self.trainee.batches(data_dir)
        self.record_ids = None if ids is None else ids(data_dir)
        self.held_out = None
        if train.eval_source and train.eval_every:
            check_apart(self.experiment)
            held_out = held_out_experiment(self.experiment)
            trainee = make_trainee(held_out, Curriculum(held_out.train.stages), self.layout, init)
            self.held_out = HeldOut(trainee, self.layout, self.shardings, data_dir)

    def to_the_end(self, state: Any) -> bool:
        """Train until the curriculum ends or a signal asks to stop; save either way. Whether it ended."""
        settings, total = self.experiment.train, self.curriculum.total_steps
        step = self.saved = int(state.step)
        nonfinite = NonFiniteSteps(
            self.workdir,
            settings.max_nonfinite,
            self.meta.get("nonfinite", 0),
            self.record_ids,
            self.checkpoints.latest,
        )
        kinds = KindMeans(self.meta.get("kinds"))
        report = Report(self.experiment, self.workdir, self.trainee, nonfinite, kinds, step, total)
        watchdog = Watchdog(60 * settings.hang_minutes, self.workdir, jax.process_index())
        pending: tuple[int, Any, Batch] | None = None
        with ExitStack() as stack:
            batches = stack.enter_context(closing(self.batches(step)))
            self.report = stack.enter_context(report)
            self.watchdog = stack.enter_context(watchdog)
            asked_to_stop = stack.enter_context(stop_on_signals())
            self.watchdog.beat()  # the first batch is due in time as well
            while step < total and not asked_to_stop(step):
                batch = report.next(batches)
                state, metrics = self._advance(state, batch)
                step += 1
                if pending is not None:  # one step late, so the devices never wait for the host
                    self._finish(pending)
                pending = (step, metrics, batch)
                saves = self._saves_at(step)
                shows = settings.eval_every > 0 and step % settings.eval_every == 0
                if saves or shows:
                    self._finish(pending)
                    pending = None
                if saves:
                    self._save(step, state)
                if shows:
                    self._evaluate(step, state)
            if pending is not None:
                self._finish(pending)
            if step > self.saved or not self._is_released(step):
                self._save(step, state)
            self.checkpoints.wait()
        if jax.process_index() == 0:
            draw_curve(self.workdir, self.curriculum.boundaries)
        finished = step == total
        say(f"{'finished' if finished else 'stopped'} at step {step}: {self.workdir / 'model'}")
        return finished

    def _advance(self, state: Any, batch: Batch) -> tuple[Any, Any]:
        """One step, sent to the devices."""
        with self._at_leisure("step", *(rows.shape for rows in batch.values())):
            return self.step(state, self._place(batch))

    def _at_leisure(self, *program: Hashable) -> AbstractContextManager[None]:
        """The first time that it is asked for a program, which is compiled within, nothing is due in time."""
        new = program not in self.compiled
        self.compiled.add(program)
        return self.watchdog.paused() if new else nullcontext()

    def _finish(self, pending: tuple[int, Any, Batch]) -> None:
        """Wait for a step and report it."""
        self.report.step(*pending)
        self.watchdog.beat()

    def _saves_at(self, step: int) -> bool:
        every = (self.experiment.train.save_every, self.experiment.train.keep_every)
        return step == self.curriculum.total_steps or any(n and step % n == 0 for n in every)

    def _evaluate(self, step: int, state: Any) -> None:
        """Log the held-out loss and what `on_eval` measures, each in the time that a step has."""
        scores: dict[str, float] = {}
        self.watchdog.beat()
        if self.held_out is not None:
            with self._at_leisure("held-out"):
                scores |= self.held_out(state, self._place)
            self.watchdog.beat()
        if self.on_eval:
            stage = sum(step > boundary for boundary in self.curriculum.boundaries)
            with self._at_leisure("on_eval", stage):  # its pictures may have the stage's size
                scores |= self.on_eval(self.trainee.whole(state), step, self.workdir)
            self.watchdog.beat()
        if scores:
            self.report.write(step, scores)
            self.report.flush()

    def _save(self, step: int, state: Any) -> None:
        """A checkpoint to resume from, written in the background, and the released model; each in a step's time."""
        self.saved = step
        self.watchdog.beat()
        self.report.flush()  # before the checkpoint: a run that resumes there finds every line up to it
        if self.checkpoints.latest() != step:
            meta = {"step": step, "seed": self.experiment.train.seed, **self.report.meta}
            self.checkpoints.save(step, self.trainee.saved(state), meta)
            self.watchdog.beat()
        if (
            self.trainee.export is not None
        ):  # before the model, whose step says that all is released
            self.trainee.export(state, self.workdir)
            self.watchdog.beat()
        notes = {"step": step, "trainee": self.experiment.trainee}
        notes["sample"] = config_to_dict(self.experiment.sample)
        trees, model = self.trainee.release(state), self.experiment.model
        save_model(self.workdir / "model", trees, model, self.trainee.tokenizer, notes)
        self.watchdog.beat()

    def _is_released(self, step: int) -> bool:
        """Whether `model/` holds this step: a kill between a checkpoint and its model leaves an older one."""
        try:
            return read_config(self.workdir / "model")[1].get("step") == step
        except CheckpointError:
            return False

    def _place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return place_batch(batch, self.batch_sharding, self.trainee.rows)


def _jit_for_one_call(function: Callable, **options: Any) -> Callable:
    """`jax.jit` without what the CPU's compiler does for speed: drawing weights compiles six times faster."""
    if jax.default_backend() == "cpu":
        options["compiler_options"] = {"xla_backend_optimization_level": 0}
    return jax.jit(function, **options)
