"""The program of a run's step: what is compiled, for what shapes, and where every array lies.

Made of the experiment, its mesh and the ids of image codes alone; nothing is read off a disk and no device is touched.
The loop runs it, `benchmarks/train.py` times it, and `lumina_jax.plan` compiles it for machines that are not there.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from lumina_jax.compiler_options import compiler_options
from lumina_jax.data.pipeline import rows_of_records
from lumina_jax.experiment import Experiment, Stage
from lumina_jax.model.params import init_params
from lumina_jax.sharding import Layout, batch_sharding, batch_ways, letter_ways, replicated
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.nonfinite import keep_where_finite
from lumina_jax.train.optimizer import make_optimizer
from lumina_jax.train.step import Step, init_state, make_train_step
from lumina_jax.train.trained_part import TrainedPart, trained_part

Metrics = dict[str, Any]


class TrainProgram(NamedTuple):
    """A compiled step and the state that goes in and out of it."""

    step: Any  # jitted: (state, batch) -> (state, metrics); the state's memory is reused
    state: Any  # abstract arrays with shardings
    init: Callable[[jax.Array], Any]  # key -> state; pure


class TransformerSteps(NamedTuple):
    """How a transformer's weights become a state, and how that steps."""

    init: Callable[[jax.Array], Any]  # with fresh weights
    # (weights, the key of a fresh state or None where nothing is drawn) -> the state before step 0
    state_of: Callable[[Any, Any], Any]
    step: Step
    shardings: Callable[[Any], Any]
    part: TrainedPart


def transformer_program(
    experiment: Experiment, curriculum: Curriculum, layout: Layout, image_codes: tuple[int, int]
) -> TrainProgram:
    """A transformer's step, as the loop compiles it; `image_codes` as for `transformer_steps`."""
    steps = transformer_steps(experiment, curriculum, layout, image_codes)
    return train_program(
        experiment, curriculum, layout, init=steps.init, step=steps.step, shardings=steps.shardings
    )


def train_program(
    experiment: Experiment,
    curriculum: Curriculum,
    layout: Layout,
    *,
    init: Callable[[jax.Array], Any],
    step: Callable[[Any, Mapping[str, Any], jax.Array], tuple[Any, Metrics]],
    shardings: Callable[[Any], Any],
) -> TrainProgram:
    """The step of all stages, as it is compiled; stages differ in the shapes of their batches (`abstract_batch`).

    `init`, `step`, `shardings`: those of a `Trainee` or of `transformer_steps`. A step draws from
    `fold_in(seed, step + 1)`, and leaves the state as it was where its loss is not finite.
    """

    def run_step(state: Any, batch: Any) -> tuple[Any, Metrics]:
        rate = curriculum.learning_rate(state.step)
        # fold_in(seed, 0) drew the initial weights
        key = jax.random.fold_in(jax.random.key(experiment.train.seed), state.step + 1)
        after, metrics = step(state, batch, key)
        return keep_where_finite(state, after, metrics), {**metrics, "lr": rate}

    abstract = jax.eval_shape(lambda: init(jax.random.key(0)))
    places = shardings(abstract)
    mesh = (
        layout.mesh
    )  # an abstract one, of devices that nobody has, is counted and never compiled for
    jitted = jax.jit(
        run_step,
        in_shardings=(places, batch_sharding(layout)),
        out_shardings=(places, replicated(layout)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh.devices) if isinstance(mesh, Mesh) else None,
    )
    return TrainProgram(jitted, jax.tree.map(_placed, abstract, places), init)


def transformer_steps(
    experiment: Experiment, curriculum: Curriculum, layout: Layout, image_codes: tuple[int, int]
) -> TransformerSteps:
    """A transformer's step by `train.optimizer`, `loss`, `accumulation`, `trainable` and `lora`.

    `image_codes`: (first id, how many), by which metrics tell images from text.
    """
    train, config = experiment.train, experiment.model.transformer
    optimizer = make_optimizer(train.optimizer, curriculum.learning_rate)
    decay, part = train.optimizer.ema_decay, trained_part(train, config)

    def state_of(weights: Any, key: Any) -> Any:
        trained, frozen = part.divide(weights, key)
        return init_state(trained, optimizer, decay, frozen)

    step = make_train_step(
        experiment.model,
        train.loss,
        optimizer,
        decay,
        layout,
        packed=any(stage.layout == "packed" for stage in train.stages),
        accumulation=train.accumulation,
        image_codes=image_codes,
        assemble=part.assemble,
    )
    return TransformerSteps(
        init=lambda key: state_of(init_params(config, key), key),
        state_of=state_of,
        step=step,
        shardings=lambda state: part.shardings(state, layout),
        part=part,
    )


def abstract_batch(stage: Stage, layout: Layout, num_tokens: int | None = None) -> dict[str, Any]:
    """A transformer's batch in `stage`, int32[B,S] with shardings; S: `num_tokens`, such as a bucket, or max_tokens."""
    shape, place = (stage.batch_size, num_tokens or stage.max_tokens), batch_sharding(layout)
    batch = rows_of_records([[]], 1, 0)
    return {
        name: jax.ShapeDtypeStruct(shape, rows.dtype, sharding=place)
        for name, rows in batch.items()
    }


def check_batches(experiment: Experiment, layout: Layout) -> None:
    """ValueError for a stage whose batch, or whose sequences where these are split, the mesh cannot divide."""
    parts, mesh = experiment.train.accumulation, dict(layout.mesh.shape)
    rows, columns = batch_ways(layout), letter_ways("S", layout)
    for index, stage in enumerate(experiment.train.stages):
        where = f"train.stages.{index}"
        if stage.batch_size // parts % rows:
            times = f" in {parts} micro-batches" if parts > 1 else ""
            raise ValueError(
                f"{where}.batch_size {stage.batch_size}{times} does not divide over the mesh {mesh}: use a multiple "
                f"of {'accumulation times ' * (parts > 1)}its batch axes, {parts * rows}"
            )
        for size in stage.buckets or (stage.max_tokens,):
            if experiment.trainee == "transformer" and size % columns:
                raise ValueError(
                    f"{where}: sequences of {size} tokens do not divide over the mesh {mesh}: use a multiple of "
                    f"{columns}, which its strategy splits them into"
                )


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
