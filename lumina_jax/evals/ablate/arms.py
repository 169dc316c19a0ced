"""The arms of an ablation: run files of one folder, their seeds, and the compute that each may spend."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lumina_jax.cli import load_run_file
from lumina_jax.experiment import Experiment
from lumina_jax.model.params import abstract_params, count_params

FOLDER = Path("configs") / "ablations"
BASE = "full"  # the arm that the others are compared with
SHARED = "shared"  # the file of the folder that is no arm


class Run(NamedTuple):
    """One arm from one seed."""

    arm: str
    seed: int
    experiment: Experiment
    workdir: Path


def find_arms(named: Sequence[str] = (), folder: Path = FOLDER) -> dict[str, Path]:
    """The run files of arms by name, BASE first: those named, by name or path, or all of the folder.

    BASE is always among them: without it nothing can be compared. Raises ValueError of one line for an unknown name.
    """
    there = {file.stem: file for file in sorted(folder.glob("*.py")) if file.stem != SHARED}
    found = {BASE: there[BASE]} if BASE in there else {}
    for name in named or there:
        path = Path(name)
        if path.suffix == ".py" and path.is_file():
            found[path.stem] = path
        elif name in there:
            found[name] = there[name]
        else:
            have = ", ".join(there) or f"none in {folder}"
            raise ValueError(f"arm {name!r}: want a run file, or one of these: {have}")
    if BASE not in found:
        raise ValueError(f"no arm {BASE!r} in {folder}: the others are compared with it")
    return {BASE: found.pop(BASE), **found}


def runs_of(
    arms: dict[str, Path], seeds: Sequence[int], workdir: Path, steps_scale: float = 1.0
) -> list[Run]:
    """Every arm with every seed, seed by seed, so that a cut report compares arms of equal seeds."""
    if not seeds or len({*seeds}) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds {' '.join(map(str, seeds))}: want different numbers from 0")
    loaded = {arm: scaled(load_run_file(path), steps_scale) for arm, path in arms.items()}
    return [
        Run(arm, seed, with_seed(experiment, seed), workdir / arm / f"seed_{seed}")
        for seed in seeds
        for arm, experiment in loaded.items()
    ]


def with_seed(experiment: Experiment, seed: int) -> Experiment:
    """With another order of the data and other first weights; the records are the same."""
    return replace(
        experiment,
        data=replace(experiment.data, seed=seed),
        train=replace(experiment.train, seed=seed),
    )


def scaled(experiment: Experiment, factor: float) -> Experiment:
    """With about `factor` times as many steps in every stage, warm-up and evaluations likewise.

    The last stage ends at an evaluation, as it does unscaled.
    """
    if factor <= 0:
        raise ValueError(f"steps scale {factor:g}: want more than 0")
    if factor == 1:
        return experiment

    def times(steps: int) -> int:
        return max(1, round(steps * factor)) if steps else 0

    train = experiment.train
    stages = []
    for stage in train.stages:
        steps = times(stage.steps)
        stages.append(
            replace(stage, steps=steps, warmup_steps=min(steps, times(stage.warmup_steps)))
        )
    every = times(train.eval_every)
    if every:
        more = -sum(stage.steps for stage in stages) % every
        stages[-1] = replace(stages[-1], steps=stages[-1].steps + more)
    train = replace(train, stages=tuple(stages), eval_every=every)
    return replace(experiment, train=train)


def num_weights(experiment: Experiment) -> int:
    """Of the transformer, without the embedding table, which is only looked up."""
    params = abstract_params(experiment.model.transformer)
    return count_params(params) - count_params(params["embed"])


def tokens_at(experiment: Experiment, step: int) -> int:
    """How many tokens the first `step` steps have read, padding included: steps x sequences x S of every stage."""
    stages = experiment.train.stages
    starts = [0, *itertools.accumulate(stage.steps for stage in stages)]
    return sum(
        min(max(step - start, 0), stage.steps) * stage.batch_size * stage.max_tokens
        for start, stage in zip(starts, stages, strict=False)
    )


def flops_at(experiment: Experiment, step: int) -> float:
    """6 x weights x `tokens_at`: the FLOPs of products with weights, forward and backward."""
    return 6.0 * num_weights(experiment) * tokens_at(experiment, step)


def compute(experiment: Experiment) -> float:
    """`flops_at` the end of the run."""
    return flops_at(experiment, sum(stage.steps for stage in experiment.train.stages))
