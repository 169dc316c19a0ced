"""The loss on records that no stage trains on: an experiment of its own, of which only the metrics are taken."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lumina_jax.data.shards import LENGTHS
from lumina_jax.data.sources import records_digest
from lumina_jax.data_config import RecordSource
from lumina_jax.experiment import Experiment
from lumina_jax.paths import as_path
from lumina_jax.sharding import Layout, batch_sharding, replicated
from lumina_jax.train.metrics import KindMeans, numbers
from lumina_jax.train.trainees import Trainee

# What a step says of its update and not of its batch.
OF_THE_UPDATE = ("grad_norm", "restarts", "usage", "discriminator")


def held_out_experiment(experiment: Experiment) -> Experiment:
    """`eval_batches` batches of `eval_source`, of the last stage's size, without dropout; fewer records begin again.

    Its steps are the run's micro-batches: evaluating takes no more memory than training.
    """
    train, model, last = experiment.train, experiment.model, experiment.train.stages[-1]
    stage = replace(
        last,
        steps=train.eval_batches * train.accumulation,
        batch_size=last.batch_size // train.accumulation,
        warmup_steps=0,
        mixture=((train.eval_source, 1.0),),
    )
    loss = replace(train.loss, context_dropout=0.0)
    lora = train.lora and replace(train.lora, dropout=0.0)
    return replace(
        experiment,
        model=replace(
            model,
            transformer=replace(model.transformer, dropout=0.0),
            vqgan=replace(model.vqgan, dropout=0.0),
        ),
        train=replace(train, stages=(stage,), loss=loss, lora=lora, accumulation=1, eval_source=""),
    )


def check_apart(experiment: Experiment) -> None:
    """ValueError where `eval_source` is a copy of records that a stage trains on.

    Folders that tell no lengths say too little of their records to be compared.
    """
    name = experiment.train.eval_source
    trained = experiment.train.mixed_sources
    digests = {
        source.name: records_digest(source.path)
        for source in experiment.data.sources
        if isinstance(source, RecordSource)
        and source.name in {name, *trained}
        and (as_path(source.path) / LENGTHS).exists()
    }
    for other in sorted(trained & {*digests}):
        if digests[other] == digests.get(name):
            raise ValueError(
                f"train.eval_source {name!r}: its folder is a copy of {other!r}, on which a stage trains; "
                "want records that no mixture holds"
            )


class HeldOut:
    """The held-out loss of a run on its mesh."""

    def __init__(self, trainee: Trainee, layout: Layout, shardings: Any, data_dir: Path):
        """`trainee`: of a `held_out_experiment`. `shardings`: the training state's.

        Raises ValueError for records that do not fit, before a run that would find them at its first evaluation.
        """
        self._trainee, self._batches = trainee, trainee.batches(data_dir)
        self._batches(0).close()
        self._evaluate = jax.jit(
            self.evaluate,
            in_shardings=(shardings, batch_sharding(layout)),
            out_shardings=replicated(layout),
        )

    def evaluate(self, state: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch's metrics at the weights that would be released; pure.

        It is the training step, of which no metric here needs gradient or update: the compiler leaves them out.
        """
        state = state._replace(params=self._trainee.released(state))
        _, metrics = self._trainee.step(state, batch, jax.random.key(0))
        return {name: value for name, value in metrics.items() if name not in OF_THE_UPDATE}

    def __call__(
        self, state: Any, place: Callable[[Mapping[str, np.ndarray]], Any]
    ) -> dict[str, float]:
        """{"eval/ce": …}, averaged over predicted tokens, of pictures over batches. `place`: onto the mesh."""
        rows, kinds = [], KindMeans()
        for batch in self.batches():
            metrics = jax.device_get(self._evaluate(state, place(batch)))
            kinds.add(metrics)
            rows.append(numbers(metrics))
        found = {**weighted_means(rows), **kinds.take()}
        return {f"eval/{name}": float(value) for name, value in found.items()}

    def batches(self) -> Iterator[Mapping[str, np.ndarray]]:
        """The same ones every time; of each, this process's rows."""
        return self._batches(0)


def weighted_means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the batches' metrics over "tokens", where they have them; batches that predict none do not count."""
    weights = np.array([row.get("tokens", 1.0) for row in rows])
    if not weights.any():
        return {}
    names = [name for name in rows[0] if name != "tokens"]
    return {name: float(np.average([row[name] for row in rows], weights=weights)) for name in names}
