"""Rows of a stage: packed, in buckets, without what is too long; the same for any start, host and worker."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lumina_jax.data import pipeline
from lumina_jax.data.mixture import plan_rows, say
from lumina_jax.data.packing import plan_bins
from lumina_jax.data.pipeline import record_ids, rows_of_records, token_batches
from lumina_jax.data.records import Record, make_record, pack_record
from lumina_jax.data.stepwise import Rows
from lumina_jax.experiment import Stage
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.unirep.kinds import AREAS_PX, TASK_NAMES, area_index, task_index

LENGTHS = {
    "a": np.random.default_rng(0).integers(2, 9, 50),
    "b": np.random.default_rng(1).integers(3, 13, 23),
}
MIXTURE = (("a", 2.0), ("b", 1.0))
PACKED = Stage(5, 4, 0.1, MIXTURE, max_tokens=16, layout="packed")
BUCKETS = Stage(19, 4, 0.1, MIXTURE, max_tokens=12, layout="buckets", buckets=(6, 8, 12))
PADDED = Stage(4, 4, 0.1, MIXTURE, max_tokens=12)


def record(source: str, index: int) -> Record:
    """The first token is the index, the second tells the source; the last is predicted."""
    tokens = np.array([index, ord(source), *range(100, 98 + LENGTHS[source][index])])
    labels = np.where(np.arange(len(tokens)) == len(tokens) - 1, tokens, -100)
    return make_record(tokens, labels, task="t2i", size=(64, 64), source=source, index=index)


SOURCES = {
    name: [pack_record(record(name, index)) for index in range(len(lengths))]
    for name, lengths in LENGTHS.items()
}


def batches(
    small_tokenizer, *stages: Stage, start: int = 0, rows: Rows = Rows(), **options
) -> list[dict]:
    curriculum = Curriculum(stages or (PACKED, BUCKETS, PADDED))
    vocab, options = small_tokenizer.vocab, {"lengths": LENGTHS, **options}
    return list(token_batches(SOURCES, curriculum, 0, vocab, 0.0, start, rows, **options))


def records_in(batch: dict) -> list[tuple[str, int]]:
    """(source, index) of every record of a batch, read off the tokens where positions restart."""
    starts = (batch["positions"] == 0) & (batch["segment_ids"] > 0)
    tokens = batch["tokens"]
    return [(chr(tokens[row, at + 1]), int(tokens[row, at])) for row, at in np.argwhere(starts)]


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_rows_hold_their_records_one_behind_the_other():
    kind, area = task_index("t2i"), area_index((64, 64))
    two = [record("a", 0)._replace(tokens=np.array([5, 6, 7], np.uint16), spans=((1, 3),))]
    two += [
        record("a", 1)._replace(tokens=np.array([8, 9], np.uint16), spans=((0, 1),), size=(0, 0))
    ]
    batch = rows_of_records([two], 6, pad_id=1)
    assert batch["tokens"].tolist() == [[5, 6, 7, 8, 9, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7, 8, -100, -100]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 2, 2, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 2]]
    assert batch["tasks"].tolist() == [[kind] * 5 + [0]] and TASK_NAMES[kind] == "other"
    assert batch["areas"].tolist() == [[area] * 3 + [0] * 3] and AREAS_PX[area] == 64
    assert all(array.dtype == np.int32 for array in batch.values())


def test_records_that_do_not_fit_a_row_are_named():
    rows = [[record("a", 0), record("b", 3)]]
    room = int(LENGTHS["a"][0] + LENGTHS["b"][3] - 1)
    with pytest.raises(ValueError, match=rf"record b#3 has {LENGTHS['b'][3]} tokens.*taken: raise"):
        rows_of_records(rows, room, pad_id=1)


def test_packed_rows_hold_several_whole_records(small_tokenizer):
    found = batches(small_tokenizer, PACKED)
    assert all(batch["tokens"].shape == (4, 16) for batch in found)
    assert max(batch["segment_ids"].max() for batch in found) > 2
    for batch in found:
        names = records_in(batch)
        assert len(names) == batch["segment_ids"].max(axis=1).sum()
        whole = np.concatenate([record(*name).tokens for name in names])
        np.testing.assert_array_equal(batch["tokens"][batch["segment_ids"] > 0], whole)


def test_an_epoch_of_packed_rows_shows_every_record_once(small_tokenizer):
    one = (("a", 1.0),)
    num_bins = len(plan_bins(LENGTHS["a"], 16, 0))
    stage = Stage(2, num_bins, 0.1, one, max_tokens=16, layout="packed")
    first, second = (records_in(batch) for batch in batches(small_tokenizer, stage))
    assert sorted(first) == sorted(second) == [("a", index) for index in range(50)]
    assert first != second


def test_weights_of_packed_stages_are_shares_of_bins(small_tokenizer):
    found = batches(small_tokenizer, Stage(6, 10, 0.1, MIXTURE, max_tokens=16, layout="packed"))
    sources = np.concatenate([batch["tokens"][:, 1] for batch in found])
    assert (sources == ord("a")).sum() == 40


def test_buckets_pad_to_the_smallest_that_holds_the_longest(small_tokenizer):
    found = batches(small_tokenizer, BUCKETS)
    for batch in found:
        names = records_in(batch)
        assert len({name for name, _ in names}) == 1  # as in the original, a batch has one source
        longest = max(LENGTHS[name][index] for name, index in names)
        assert batch["tokens"].shape == (4, next(size for size in (6, 8, 12) if size >= longest))
    assert len({batch["tokens"].shape for batch in found}) > 1


def test_layouts_resume_at_any_step_and_are_shared_out_by_hosts(small_tokenizer):
    whole = batches(small_tokenizer)
    assert len(whole) == 28
    for start in (2, 5, 8, 27):
        assert_same(batches(small_tokenizer, start=start), whole[start:])
    parts = [batches(small_tokenizer, rows=Rows((index,), 4)) for index in range(4)]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


@pytest.mark.slow
def test_worker_processes_do_not_change_the_order(small_tokenizer):
    assert_same(batches(small_tokenizer, num_workers=2), batches(small_tokenizer))


@pytest.mark.parametrize("stage", [PACKED, BUCKETS, PADDED], ids=lambda stage: stage.layout)
def test_records_that_are_too_long_are_an_error_or_left_out_and_named(
    stage, small_tokenizer, capsys
):
    say.cache_clear()
    lengths = {**LENGTHS, "b": LENGTHS["b"].copy()}
    longer = [2, 5, 6, 11, 12, 20, 21]
    lengths["b"][longer] = 17
    named = (
        r"7 of 23 records of source b are longer than max_tokens (12|16): b#2 \(17 tokens\), b#5"
    )
    with pytest.raises(ValueError, match=rf"stage 0: {named}.*\), …; raise max_tokens"):
        batches(small_tokenizer, stage, lengths=lengths)
    found = batches(small_tokenizer, stage, lengths=lengths, too_long="skip")
    seen = {index for batch in found for name, index in records_in(batch) if name == "b"}
    assert seen and not seen & set(longer)
    notes = capsys.readouterr().err
    assert (
        notes.startswith("stage 0: warning: 7 of 23 records")
        and "b#12 (17 tokens), …; left out" in notes
    )


def test_a_record_may_be_no_longer_than_the_model_was_made_for_where_a_bin_is():
    lengths = {"a": np.array([3, 9])}
    with pytest.raises(ValueError, match=r"longer than max_tokens 8: a#1 \(9 tokens\)"):
        plan_rows(replace(PACKED, mixture=(("a", 1.0),)), {"a": 2}, lengths, (0, 0), longest=8)


def test_a_source_without_anything_that_fits_is_an_error():
    stage = Stage(1, 1, 0.1, (("a", 1.0),), max_tokens=1, layout="packed")
    with pytest.raises(ValueError, match="50 of 50 records of source a"):
        plan_rows(stage, {"a": 50}, LENGTHS, (0, 0), "skip")


def test_lengths_of_other_records_are_refused():
    with pytest.raises(ValueError, match="source a has 49 records and 50 lengths"):
        plan_rows(PACKED, {"a": 49, "b": 23}, LENGTHS, (0, 0))
    with pytest.raises(ValueError, match="source b has 23 records and none lengths"):
        plan_rows(PACKED, {"a": 50, "b": 23}, {"a": LENGTHS["a"]}, (0, 0))


def test_bins_that_are_half_empty_are_told():
    stage = Stage(1, 1, 0.1, (("a", 1.0),), max_tokens=550, layout="packed")
    plan = plan_rows(stage, {"a": 200}, {"a": np.full(200, 300)}, (0, 3))
    assert plan.notes == [
        "stage 3: bins of source a are 54.5% full at max_tokens 550; at 600 they would be 100.0% full"
    ]
    fuller = replace(stage, max_tokens=600)
    assert plan_rows(fuller, {"a": 200}, {"a": np.full(200, 300)}, (0, 3)).notes == []


def test_a_stage_is_planned_once_for_all_its_steps(monkeypatch):
    planned: Counter[str] = Counter()

    def plan(stage: Stage, *arguments: Any) -> Any:
        planned[stage.layout] += 1
        return plan_rows(stage, *arguments)

    monkeypatch.setattr(pipeline, "plan_rows", plan)
    ids = record_ids(SOURCES, Curriculum((PACKED, PADDED)), 0, lengths=LENGTHS)
    for step in range(PACKED.steps + PADDED.steps):
        ids(step)
    assert planned == {"packed": 1, "padded": 1}


def test_records_of_a_step_are_named_in_the_order_of_its_batch(small_tokenizer):
    curriculum = Curriculum((PACKED, BUCKETS, PADDED))
    ids = record_ids(SOURCES, curriculum, 0, lengths=LENGTHS)
    for step, batch in enumerate(batches(small_tokenizer)):
        names = [f"{name}#{index}" for name, index in records_in(batch)]
        assert ids(step) == names


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "rows"}, "layout 'rows': want one of padded, packed, buckets"),
        ({"layout": "buckets"}, r"buckets \(\): want rising sizes, the last of them max_tokens 12"),
        ({"layout": "buckets", "buckets": (8, 6, 12)}, "want rising sizes"),
        ({"layout": "buckets", "buckets": (6, 8)}, "the last of them max_tokens 12"),
        ({"layout": "packed", "buckets": (12,)}, "want layout 'buckets'"),
        ({"mixture": (("a", 0.0),)}, "weight 0.0 of a: want more than 0"),
    ],
)
def test_stages_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Stage(
            **{
                "steps": 1,
                "batch_size": 1,
                "learning_rate": 0.1,
                "mixture": MIXTURE,
                "max_tokens": 12,
                **fields,
            }
        )
