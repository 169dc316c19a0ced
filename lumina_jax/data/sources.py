"""The folders of records that a run reads: opened, with their lengths where it packs, and its own ids in them."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lumina_jax.data.mixture import needs_lengths, plan_rows
from lumina_jax.data.pipeline import token_batches
from lumina_jax.data.records import Record, unpack_record
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
    records = {name: open_shards(folder) for name, folder in folders.items()}
    lengths = lengths_of(folders, experiment)
    data, dropout = experiment.data, experiment.train.loss.context_dropout
    return lambda start: token_batches(
        records,
        curriculum,
        data.seed,
        vocab,
        dropout,
        start,
        rows,
        lengths=lengths,
        too_long=data.too_long,
        num_workers=data.num_workers,
    )


def record_ids_of(
    experiment: Experiment, curriculum: Curriculum, folders: Mapping[str, str | Path]
) -> Callable[[int], list[str]]:
    """The names of the records of a step's whole batch (steps 0, 1, …), row by row: "pairs#17 (train.jsonl#204)".

    Source and place in its folder, and where the record comes from, if that is something else.
    """
    records = {name: open_shards(folder) for name, folder in folders.items()}
    counts = {name: len(found) for name, found in records.items()}
    lengths, data = lengths_of(folders, experiment), experiment.data

    def record_ids(step: int) -> list[str]:
        index = int(curriculum.stage_of_steps()[step])
        stage, step_of_stage = curriculum.stages[index], step - curriculum.stage_starts()[index]
        plan = plan_rows(stage, counts, lengths, (data.seed, index), data.too_long)
        rows, _ = plan.at(step_of_stage, range(stage.batch_size))
        return [
            _with_origin(name, unpack_record(records[row.source][int(place)]))
            for row in rows
            for name, place in zip(row.names(), row.records, strict=True)
        ]

    return record_ids


def _with_origin(name: str, record: Record) -> str:
    origin = f"{record.source}#{record.index}"
    return name if origin == name else f"{name} ({origin})"


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
