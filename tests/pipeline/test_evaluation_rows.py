"""Rows to score: none that the adapter was trained or checked on, whatever the slice."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta import open_dataset
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.cards.record import DatasetRecord, Made, Record
from hf_lorameta.data.chat_form import ChatForm, ChatMode
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.data.reading import Reading
from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.hub.client import Hub
from hf_lorameta.pipeline import evaluation_rows as module
from hf_lorameta.pipeline.evaluate import prepare_evaluation
from hf_lorameta.pipeline.evaluation_rows import (
    RowsToEvaluate,
    open_to_evaluate,
    rows_to_evaluate,
)
from hf_lorameta.pipeline.generate import plan_with_rows
from hf_lorameta.pipeline.request import Request
from hf_lorameta.pipeline.resolve import Resolved
from hf_lorameta.pipeline.session import Session
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Row
from tests.conftest import adapter_files, write_files
from tests.support.codes import raises_code
from tests.training import tiny

ROWS = 60


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"input": f"question {i}", "output": f"answer {i}", "more": "x"} for i in range(ROWS)]
    return tiny.write_task(tmp_path, "rows", rows)


def adapted_to(dataset: Dataset) -> tuple[dict[str, Any], set[Row]]:
    """Return the record of an adapter, and the rows that it was trained or checked on."""
    resolved = Resolved(Request(train=8, check=4))
    plan, rows = plan_with_rows(dataset, Session(embedded_bank()), resolved)
    trained = {"rows": 8, "steps": 1, "seen": 8, "labeled": ROWS}
    made = {"rows": asdict(rows.drawn), "training": trained}
    return plan.record.to_dict() | made, set(rows.used)


def made_with(columns: Columns) -> Made:
    dataset = DatasetRecord(
        id=None, private=True, proposed_instruction=False, revision=None, config=None,
        split="train", columns=columns, rows=8, tokens=8,
    )  # fmt: skip
    return Made(recipe=Recipe().model_dump(), dataset=dataset)


def warnings_of(chosen: RowsToEvaluate) -> list[str]:
    return [remark.text for remark in chosen.remarks if remark.level == "warning"]


def says_skipped(chosen: RowsToEvaluate, count: int) -> bool:
    """Whether this number of rows is said to be left out; nothing is said of none."""
    said = [remark.text for remark in chosen.remarks if remark.text.startswith("Skipping")]
    text = f"Skipping {count} rows that were used to make or check an adapter."
    return said == [text] * bool(count)


def scored_on(dataset: Dataset, record: dict[str, Any]) -> RowsToEvaluate:
    return rows_to_evaluate(dataset, [Record.model_validate(record)], ROWS, 0, Hub(False))


@pytest.mark.parametrize(
    ("adapted", "scored", "overlap"),
    [
        ("train[:40]", "train", True),
        ("train", "train[:30]", True),
        ("train[:40]", "train[20:]", True),
        ("train[20:40]", "train[:30]", True),
        ("train[:40]", "train[40:]", False),
        ("train[30:]", "train[:30]", False),
    ],
)
def test_rows_of_an_overlapping_slice_are_not_scored(
    file: Path, adapted: str, scored: str, overlap: bool
) -> None:
    record, used = adapted_to(open_dataset(file, split=adapted))
    dataset = open_dataset(file, split=scored)
    chosen = scored_on(dataset, record)
    warnings = warnings_of(chosen)
    assert sorted(chosen.rows) == sorted(set(dataset.rows()) - used)
    assert says_skipped(chosen, len(set(dataset.rows()) & used))
    assert bool(warnings) == overlap
    if overlap:
        assert f"generated for split {adapted}" in warnings[0]


def test_the_same_holds_for_a_public_dataset(file: Path) -> None:
    public: dict[str, Any] = {"id": "user/name", "private": False, "revision": "1"}
    record, used = adapted_to(replace(open_dataset(file, split="train[:40]"), **public))
    scored = replace(open_dataset(file), **public)
    assert used.isdisjoint(scored_on(scored, record).rows)
    assert warnings_of(scored_on(replace(scored, id="user/other"), record)) == []


NOT_KNOWN = "no row of split train.* is scored: .* which ones is not known from its recipe"


@pytest.mark.parametrize("change", [{"revision": "2"}, {"columns": Columns(output="more")}])
def test_nothing_is_scored_where_used_rows_cannot_be_told(
    file: Path, change: dict[str, Any]
) -> None:
    public: dict[str, Any] = {"id": "user/name", "private": False, "revision": "1"}
    record, _ = adapted_to(replace(open_dataset(file), **public))
    scored = replace(open_dataset(file), **(public | change))
    with pytest.raises(EmptyDatasetError, match=NOT_KNOWN) as error:
        scored_on(scored, record)
    assert "--split" in error.value.hint
    assert scored_on(replace(scored, split="test"), record).rows


def test_a_file_is_recognized_with_another_text_around_its_rows(file: Path) -> None:
    record, _ = adapted_to(open_dataset(file))
    read = open_dataset(file, instruction="Answer in one word.")
    with pytest.raises(EmptyDatasetError, match=NOT_KNOWN):
        scored_on(read, record)


def test_of_an_earlier_recipe_other_slices_and_files_are_scored(file: Path, tmp_path: Path) -> None:
    """It does not state how many rows were drawn, and which these are is not guessed."""
    record, _ = adapted_to(open_dataset(file, split="train[:40]"))
    del record["rows"]
    for split in ("train", "train[30:]", "train[:40]"):
        with pytest.raises(EmptyDatasetError, match=NOT_KNOWN):
            scored_on(open_dataset(file, split=split), record)
    assert len(scored_on(open_dataset(file, split="train[40:]"), record).rows) == ROWS - 40
    others = [{"input": f"another {i}", "output": f"{i}"} for i in range(9)]
    other = open_dataset(tiny.write_task(tmp_path, "others", others))
    assert len(scored_on(other, record).rows) == 9
    record["training"] = None  # combined alone, so all rows are new
    assert len(scored_on(open_dataset(file), record).rows) == ROWS


def test_of_a_file_all_rows_may_be_used(file: Path) -> None:
    dataset = open_dataset(file)
    record, used = adapted_to(dataset)
    record["recipe"]["method"] = "one that this version lacks"
    chosen = scored_on(dataset, record)
    [warning] = warnings_of(chosen)
    assert warning == "An adapter was generated for split train: its rows are not new to it."
    assert len(chosen.rows) == ROWS - len(used)
    assert says_skipped(chosen, len(used))
    record["rows"]["check"] = ROWS
    with raises_code("evaluate.no-rows-left", match=str(ROWS)):
        scored_on(dataset, record)


@pytest.mark.parametrize("trained", [True, False])
def test_rows_of_a_training_that_no_recipe_asked_for_are_skipped(file: Path, trained: bool) -> None:
    dataset = open_dataset(file)
    resolved = Resolved(Request(budget=9, check=False))
    plan, rows = plan_with_rows(dataset, Session(embedded_bank()), resolved)
    assert len(rows.used) == ROWS
    checked = {"rows": 4, "counted": {"generated": {"right": 1}}}
    record = plan.record.to_dict() | {"rows": asdict(rows.drawn), "check": checked}
    if trained:
        record["training"] = {"rows": ROWS, "steps": 1, "seen": 8, "labeled": ROWS}
    with raises_code("evaluate.no-rows-left", match=str(ROWS)):
        scored_on(dataset, record)


def test_rows_are_drawn_from_a_bounded_beginning(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_ROWS", 40)
    opened = open_dataset(file)
    read: list[Row] = []

    def rows() -> Iterator[Row]:
        for row in opened.rows():
            read.append(row)
            yield row

    chosen = rows_to_evaluate(replace(opened, rows=rows), [], 30, 3, Hub(False))
    assert len(read) == 40
    assert {*chosen.rows, *chosen.shots} <= set(read)
    assert any(row in chosen.rows for row in read[30:])


def test_a_split_of_too_few_rows_can_be_scored_without_examples(file: Path) -> None:
    with raises_code("evaluate.no-rows-left", match="3 needed") as error:
        rows_to_evaluate(open_dataset(file, split="train[:3]"), [], 9, 3, Hub(False))
    assert error.value.hint.startswith("add --shots 0")


def test_examples_of_a_folder_are_rows_of_its_train_split(tmp_path: Path) -> None:
    for split, number in (("train", 9), ("test", 4)):
        rows = [{"input": f"{split} {i}", "output": str(i)} for i in range(number)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.jsonl").write_text(text)
    adapter = write_files(tmp_path / "a", adapter_files())
    prepared = prepare_evaluation(
        [adapter], str(tmp_path / "data"), Hub(False), max_rows=10, shots=3, reading=Reading()
    )
    assert sorted(prompt for prompt, _ in prepared.rows) == [f"test {i}" for i in range(4)]
    assert len(prepared.shots) == 3
    assert all(prompt.startswith("train") for prompt, _ in prepared.shots)


@pytest.mark.parametrize(
    ("mode", "template", "prompt"),
    [
        (ChatMode(), "<user>{prompt}<bot>", "<user>Greet.\n\nInput: hi\nOutput:<bot>"),
        (None, "{instruction} {input} ->", "Greet. hi ->"),
        (None, None, "Greet.\n\nInput: hi\nOutput:"),
    ],
)
@pytest.mark.parametrize("named", [None, "input=question,output=answer"])
def test_rows_of_other_columns_are_in_the_form_that_the_adapter_was_made_for(
    named: str | None, mode: ChatMode | None, template: str | None, prompt: str, tmp_path: Path
) -> None:
    (tmp_path / "other.jsonl").write_text('{"question": "hi", "answer": "hello"}\n' * 2)
    form = ChatForm(template, mode) if template else None
    columns = Columns(input="input", output="output").with_prompt("Greet.", form)
    made = made_with(columns)

    def first(**reading: Any) -> str:
        name = tmp_path / "other.jsonl"
        return open_to_evaluate(name, made, Hub(False), Reading.of(**reading)).head(1)[0][0]

    assert first(columns=named) == prompt
    assert first(columns=named, template="{instruction}: {input}") == "Greet.: hi"


def test_rows_with_an_instruction_of_their_own_keep_it(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"do": "Greet.", "to": "Ann", "answer": "Hi"}\n' * 2)
    columns = Columns(input="input", output="output").with_prompt("Sort.", None)
    made = made_with(columns)
    named = "instruction=do,input=to,output=answer"
    read = open_to_evaluate(tmp_path / "own.jsonl", made, Hub(False), Reading.of(columns=named))
    assert "Greet." in read.head(1)[0][0]
    assert "Sort." not in read.head(1)[0][0]
