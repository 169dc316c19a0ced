"""How fast does a run file train here? A row a stage: seconds a step, sequences and tokens a second.

    PYTHONPATH=. python benchmarks/train.py [--run-file configs/scenes.py] [--cpu-devices 2]

Random tokens in the stage's own shape; compilation and the first step are left out.
"""

from dataclasses import dataclass
from time import perf_counter

import jax
import numpy as np

from lumina_jax.cli import load_run_file, parse_arguments, run_main
from lumina_jax.experiment import Experiment, Stage
from lumina_jax.model.params import init_params
from lumina_jax.sharding import batch_sharding, make_layout, replicated
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.optimizer import make_optimizer
from lumina_jax.train.step import init_state, make_train_step


@dataclass(frozen=True)
class Options:
    """Which run file's stages to time, and how."""

    run_file: str = "configs/scenes.py"  # of a transformer that fits this machine
    cpu_devices: int = 1  # as train.py's
    steps: int = 10  # timed, after one that is not


def main() -> None:
    """Time a step of every stage and print a table."""
    options = parse_arguments(Options, prog="benchmarks/train.py", description=__doc__)
    if options.cpu_devices > 1:
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    experiment = load_run_file(options.run_file)
    if experiment.trainee != "transformer":
        raise ValueError(f"{options.run_file}: trains a {experiment.trainee}, want a transformer")
    print("| stage | batch x tokens | s/step | sequences/s | tokens/s |\n|---|---|---|---|---|")
    for index, stage in enumerate(experiment.train.stages):
        seconds = seconds_per_step(experiment, stage, options.steps)
        rows, columns = stage.batch_size, stage.max_tokens
        rates = f"{rows / seconds:.1f} | {rows * columns / seconds:.0f}"
        print(f"| {index} | {rows} x {columns} | {seconds:.3f} | {rates} |", flush=True)


def seconds_per_step(experiment: Experiment, stage: Stage, steps: int) -> float:
    """The mean over `steps` steps of the run's own step on its own mesh."""
    model, train = experiment.model, experiment.train
    layout = make_layout(train.mesh)
    whole, over_batch = replicated(layout), batch_sharding(layout)
    optimizer = make_optimizer(train.optimizer, Curriculum(train.stages).learning_rate)
    decay = train.optimizer.ema_decay
    params = init_params(model.transformer, jax.random.key(0))
    state = jax.device_put(init_state(params, optimizer, decay), whole)
    batch = jax.device_put(random_batch(stage, model.transformer.vocab_size), over_batch)
    step = jax.jit(
        make_train_step(model, train.loss, optimizer, decay, layout),
        in_shardings=(whole, over_batch, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    state, _ = jax.block_until_ready(step(state, batch, jax.random.key(1)))
    start = perf_counter()
    for index in range(steps):
        state, _ = step(state, batch, jax.random.key(index))
    jax.block_until_ready(state)
    return (perf_counter() - start) / steps


def random_batch(stage: Stage, vocab_size: int) -> dict[str, np.ndarray]:
    """Full rows of random tokens, all predicted."""
    shape = (stage.batch_size, stage.max_tokens)
    tokens = np.random.default_rng(0).integers(0, vocab_size, shape, np.int32)
    positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    segments = np.ones(shape, np.int32)
    return {"tokens": tokens, "labels": tokens, "segment_ids": segments, "positions": positions}


if __name__ == "__main__":
    run_main(main)
