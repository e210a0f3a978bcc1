"""Reading within limits, and what a plan says about it."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from hf_lorameta import ReadingLimits, Recipe, open_dataset
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.data.counts import profile
from hf_lorameta.data.counts.output_counts import OutputCounter
from hf_lorameta.data.counts.tokenizer import load_encode
from hf_lorameta.pipeline.plan import plan_from_reading
from hf_lorameta.pipeline.read import read_dataset, token_counting
from hf_lorameta.pipeline.rows import RowsAsked, rows_for, rows_used
from hf_lorameta.types import Encode
from tests.training import tiny


def write(path: Path, lengths: Sequence[int]) -> Path:
    """Write rows of an input of 1 character and an output of each length."""
    lines = [json.dumps({"input": "q", "output": "ab " * (n // 3)}) for n in lengths]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("limits", "rows"),
    [
        (ReadingLimits(), 6),
        (ReadingLimits(rows=6), 6),
        (ReadingLimits(rows=4), 4),
        (ReadingLimits(characters=62), 2),
        (ReadingLimits(characters=63), 3),
    ],
)
def test_reading_stops_at_a_limit_which_the_replay_states(
    tmp_path: Path, limits: ReadingLimits, rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    bank = embedded_bank()
    path = write(tmp_path / "rows.jsonl", [30] * 6)
    opened = open_dataset(path, limits=limits)
    with caplog.at_level(logging.WARNING):
        reading = read_dataset(opened, Recipe(), token_counting(bank))
    assert (reading.profile.rows, reading.pool) == (rows, ())
    plan = plan_from_reading(reading, bank)
    assert plan.recipe == Recipe()
    assert plan.replay.max_rows == (None if rows == 6 else rows)
    assert ("characters, they reach the limit" in caplog.text) == (limits.characters < 1000)
    again = read_dataset(open_dataset(path), plan.replay, token_counting(bank))
    assert plan_from_reading(again, bank).to_dict() == plan.to_dict()


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(max_rows=50)])
def test_the_rows_to_train_on_are_those_of_the_recipe_despite_a_limit(
    tmp_path: Path, recipe: Recipe
) -> None:
    """So that `evaluate`, which knows the recipe alone, leaves them out."""
    bank = embedded_bank()
    rows = [{"input": f"question {i:03}", "output": f"{i:03}"} for i in range(100)]
    path = tiny.write_task(tmp_path, "rows", rows)
    opened = open_dataset(path, limits=ReadingLimits(characters=15 * 60))
    asked = RowsAsked(train=8)
    reading = read_dataset(opened, recipe, token_counting(bank), collect=asked.pool)
    plan = plan_from_reading(reading, bank)
    assert plan.replay.max_rows == (recipe.max_rows or 60)
    drawn = rows_for(asked, reading.pool)
    assert drawn.train
    record = plan.record.model_copy(update={"rows": drawn.drawn})
    [part] = record.made  # of a merge
    for known in (record, part):
        assert set(rows_used(known, open_dataset(path)) or ()) == set(drawn.used)


def test_rows_that_repeat_others_are_counted_where_rows_are_drawn() -> None:
    rows = [{"input": f"question {i % 8}", "output": f"{i % 8}"} for i in range(10)]
    counting = token_counting(embedded_bank())
    found = [
        read_dataset(open_dataset(rows), Recipe(), counting, collect=RowsAsked(train=n).pool)
        for n in (8, None)
    ]
    assert [(r.profile.rows, r.profile.row_counts.repeated) for r in found] == [(10, 2), (10, 0)]


def test_a_text_that_is_cut_is_counted_and_said(tmp_path: Path) -> None:
    bank, limits = embedded_bank(), ReadingLimits(text=60)
    opened = open_dataset(write(tmp_path / "rows.jsonl", [9, 300, 30]), limits=limits)
    reading = read_dataset(opened, Recipe(), token_counting(bank))
    cut = open_dataset(write(tmp_path / "cut.jsonl", [9, 60, 30]))
    expected = read_dataset(cut, Recipe(), token_counting(bank)).profile
    assert reading.profile.output.total == expected.output.total
    assert (reading.profile.row_counts.cut, expected.row_counts.cut) == (1, 0)


def test_an_input_is_tokenized_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, texts, load = embedded_bank(), Counter[str](), load_encode

    def counting(path: Path) -> Encode:
        def encode(asked: Sequence[str]) -> Iterable[Sequence[int]]:
            texts.update(asked)
            return load(path)(asked)

        return encode

    monkeypatch.setattr("hf_lorameta.pipeline.read.load_encode", counting)
    rows = [{"input": f"question {i}", "output": f"answer {i}"} for i in range(3)]
    read_dataset(open_dataset(rows), Recipe(), token_counting(bank))
    assert {texts[row["input"]] for row in rows} == {1}


def test_a_reading_ends_when_its_seconds_of_computing_are_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{"input": f"question {i}", "output": "yes"} for i in range(8)]
    monkeypatch.setattr("hf_lorameta.pipeline.read.time.process_time", iter(range(100)).__next__)
    opened = open_dataset(rows, limits=ReadingLimits(seconds=3))
    reading = read_dataset(opened, Recipe(), token_counting(embedded_bank()))
    assert (reading.profile.rows_read, reading.stopped_after) == ("first 3 of 8 rows", 3)


def test_long_outputs_are_tokenized_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "BATCH_CHARACTERS", 100)
    sizes = []

    def encode(texts: Sequence[str]) -> list[list[int]]:
        sizes.append(sum(map(len, texts)))
        return [[1] for _ in texts]

    counter = OutputCounter(encode, 4, end=3)
    counter.add([("q", "a" * 40)] * 50)
    assert counter.counts.first.tolist() == [0, 50, 0, 0]
    assert max(sizes) < 200
