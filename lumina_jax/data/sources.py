"""The folders of records that a run reads: opened, with their lengths where it packs, and its own ids in them."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lumina_jax.data.mixture import needs_lengths
from lumina_jax.data.pipeline import record_ids, token_batches
from lumina_jax.data.shards import INDEX, open_shards, read_lengths
from lumina_jax.data.stepwise import Batch, Curriculum, Rows
from lumina_jax.experiment import Experiment
from lumina_jax.paths import as_path
from lumina_jax.unirep.vocab import Vocab

ASSETS = ("tokenizer", "vqgan")  # notes of a folder that say what its ids mean


def batches_of(
    experiment: Experiment,
    curriculum: Curriculum,
    folders: Mapping[str, str | Path],
    vocab: Vocab,
    rows: Rows,
) -> Callable[[int], Iterator[Batch]]:
    """The transformer's batches from any step on; `folders`: of the records of every source by its name."""
    records, planned = _opened(experiment, folders)
    data, dropout = experiment.data, experiment.train.loss.context_dropout
    workers = data.num_workers
    return lambda start: token_batches(
        *(records, curriculum, data.seed, vocab, dropout, start, rows),
        num_workers=workers,
        **planned,
    )


def record_ids_of(
    experiment: Experiment, curriculum: Curriculum, folders: Mapping[str, str | Path]
) -> Callable[[int], list[str]]:
    """The names of the records of any step's whole batch; see `pipeline.record_ids`."""
    records, planned = _opened(experiment, folders)
    return lambda step: record_ids(records, curriculum, experiment.data.seed, step, **planned)


def _opened(
    experiment: Experiment, folders: Mapping[str, str | Path]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random access to the records of every source, and what a plan of them depends on."""
    records = {name: open_shards(folder) for name, folder in folders.items()}
    lengths = lengths_of(folders, experiment)
    return records, {"lengths": lengths, "too_long": experiment.data.too_long}


def check_made_with(folder: str | Path, made_with: Mapping[str, str]) -> None:
    """ValueError where the records of `folder` were made with another tokenizer or VQGAN than the run's assets.

    `made_with`: digests by the names of ASSETS. A folder that says nothing is taken as it is.
    """
    file = as_path(folder) / INDEX
    notes = json.loads(file.read_text()) if file.is_file() else {}
    for name in ASSETS:
        theirs, ours = notes.get(name), made_with.get(name)
        if theirs and ours and theirs != ours:
            raise ValueError(
                f"{folder}: its records were made with another {name} ({theirs}) than this run's assets "
                f"({ours}); make them again with these assets, or give the run the others"
            )


def lengths_of(folders: Mapping[str, str | Path], experiment: Experiment) -> dict[str, np.ndarray]:
    """The tokens of every record by source name, of the sources of stages that plan with them."""
    data = experiment.data
    wanted = {
        name
        for stage in experiment.train.stages
        if needs_lengths(stage, data.too_long)
        for name, _ in stage.mixture
    }
    return {name: read_lengths(folder) for name, folder in folders.items() if name in wanted}
