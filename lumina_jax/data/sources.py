"""The folders of records that a run reads: opened, with their lengths where it packs, and its own ids in them."""

import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from lumina_jax.data.mixture import needs_lengths
from lumina_jax.data.pipeline import record_ids, token_batches
from lumina_jax.data.shards import INDEX, LENGTHS, open_shards, read_lengths
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
) -> Callable[[int], Generator[Batch, None, None]]:
    """The transformer's batches from any step on; `folders`: of the records of every source by its name."""
    records, planned = _opened(experiment, folders)
    data, dropout = experiment.data, experiment.train.loss.context_dropout
    make = partial(token_batches, records, curriculum, data.seed, vocab, dropout)
    planned |= {"num_workers": data.num_workers, "image_layout": experiment.model.image_layout}
    return lambda start: make(start, rows, **planned)


def record_ids_of(
    experiment: Experiment, curriculum: Curriculum, folders: Mapping[str, str | Path]
) -> Callable[[int], list[str]]:
    """The names of the records of any step's whole batch; see `pipeline.record_ids`. Opens at the first question."""

    @cache
    def ids() -> Callable[[int], list[str]]:
        records, planned = _opened(experiment, folders)
        return record_ids(records, curriculum, experiment.data.seed, **planned)

    return lambda step: ids()(step)


def _opened(
    experiment: Experiment, folders: Mapping[str, str | Path]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random access to the records of every source, and what a plan of them depends on."""
    records = {name: open_records(folder) for name, folder in folders.items()}
    return records, {
        "lengths": lengths_of(folders, experiment),
        "too_long": experiment.data.too_long,
        "longest": experiment.model.max_tokens,
    }


def open_records(folder: str | Path) -> Any:
    """Random access to the packed records of a complete folder; ValueError where some are missing."""
    records, wanted = open_shards(folder), _notes(folder)["num_records"]
    if len(records) != wanted:
        raise ValueError(
            f"{folder}: holds {len(records)} records, its {INDEX} says {wanted}; make them again"
        )
    return records


def records_digest(folder: str | Path) -> str:
    """12 hex digits of what a complete folder says of its records: how they were made, how long they are."""
    home, found = as_path(folder), hashlib.sha256(json.dumps(_notes(folder)).encode())
    if (home / LENGTHS).exists():
        found.update((home / LENGTHS).read_bytes())
    return found.hexdigest()[:12]


def _notes(folder: str | Path) -> dict[str, Any]:
    """What the index of a folder says; ValueError where there is none: it is written last."""
    file = as_path(folder) / INDEX
    if not file.exists():
        raise ValueError(
            f"{folder}: no {INDEX} there, so not all of its records are; finish it with the command that makes it "
            "(python -m lumina_jax.data.pretokenize)"
        )
    return json.loads(file.read_text())


def check_made_with(folder: str | Path, made_with: Mapping[str, str]) -> None:
    """ValueError where the records of `folder` were made with another tokenizer or VQGAN than the run's assets.

    `made_with`: digests by the names of ASSETS. A folder whose index does not name them is taken as it is.
    """
    notes = _notes(folder)
    for name in ASSETS:
        theirs, ours = notes.get(name), made_with.get(name)
        if theirs and ours and theirs != ours:
            raise ValueError(
                f"{folder}: its records were made with another {name} ({theirs}) than this run's assets "
                f"({ours}); make them again with these assets, or give the run the others"
            )


def lengths_of(folders: Mapping[str, str | Path], experiment: Experiment) -> dict[str, np.ndarray]:
    """The tokens of every record by source name: where a folder tells them, or a stage plans with them."""
    data = experiment.data
    wanted = {
        name
        for stage in experiment.train.stages
        if needs_lengths(stage, data.too_long)
        for name, _ in stage.mixture
    }
    return {
        name: read_lengths(folder)
        for name, folder in folders.items()
        if name in wanted or (as_path(folder) / LENGTHS).exists()
    }
