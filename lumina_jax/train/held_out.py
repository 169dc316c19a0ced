"""The loss on records that no stage trains on: an experiment of its own, of which only the metrics are taken."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lumina_jax.experiment import Experiment
from lumina_jax.sharding import Layout, batch_sharding, replicated
from lumina_jax.train.metrics import KindMeans, numbers
from lumina_jax.train.trainees import Trainee

# What a step says of its update and not of its batch.
OF_THE_UPDATE = ("grad_norm", "restarts", "usage", "discriminator")


def held_out_experiment(experiment: Experiment) -> Experiment:
    """`eval_batches` steps over `eval_source`, of the last stage's size, without dropout; fewer records begin again."""
    train, model = experiment.train, experiment.model
    mixture = ((train.eval_source, 1.0),)
    stage = replace(train.stages[-1], steps=train.eval_batches, warmup_steps=0, mixture=mixture)
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


class HeldOut:
    """The held-out loss of a run on its mesh."""

    def __init__(self, trainee: Trainee, layout: Layout, shardings: Any, data_dir: Path):
        """`trainee`: of a `held_out_experiment`. `shardings`: the training state's."""
        self._trainee, self._batches = trainee, trainee.batches(data_dir)
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
        weights = [row.pop("tokens", 1.0) for row in rows]
        means = {name: np.average([row[name] for row in rows], weights=weights) for name in rows[0]}
        found = {**means, **kinds.take()}
        return {f"eval/{name}": float(value) for name, value in found.items()}

    def batches(self) -> Iterator[Mapping[str, np.ndarray]]:
        """The same ones every time; of each, this process's rows."""
        return self._batches(0)
