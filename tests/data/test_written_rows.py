"""Rows in .csv, .jsonl and .parquet files."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.data.written_rows import check_ending, rows_written, safe_cell
from hf_lorameta.errors import DatasetError, UsageError

ROWS: list[dict[str, Any]] = [
    {"text": 'a "quoted", one\nof two lines', "n": 1, "tags": ["x", "y"]},
    {"text": "=1+1", "n": None, "tags": []},
]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with rows_written(path, ["text", "n", "tags"], rows) as write:
        for row in rows:
            write([row])


def test_each_format_can_be_read_again(tmp_path: Path) -> None:
    from pyarrow import parquet

    for ending in ("csv", "jsonl", "parquet"):
        _write(tmp_path / f"a.{ending}", ROWS)
    lines = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == ROWS
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert read[0] == {"text": ROWS[0]["text"], "n": "1", "tags": '["x", "y"]'}
    assert read[1] == {"text": "'=1+1", "n": "", "tags": "[]"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl", "a.parquet"]


@given(st.text(max_size=8))
def test_no_cell_is_a_formula(text: str) -> None:
    cell = safe_cell(text)
    assert cell.removeprefix("'") == text.removeprefix("'") or cell == text
    if cell[:1] in ("=", "@", "\t", "\r") and cell:
        raise AssertionError(cell)
    if cell[:1] in ("+", "-") and cell:
        float(cell)


def _fail_after_a_row(path: Path) -> None:
    with rows_written(path, ["text"], [{"text": "a"}]) as write:
        write([{"text": "a"}])
        raise KeyError


def test_nothing_is_left_of_a_file_that_fails(tmp_path: Path) -> None:
    for ending in ("csv", "jsonl", "parquet"):
        (tmp_path / f"a.{ending}").write_bytes(b"before")
        with pytest.raises(KeyError):
            _fail_after_a_row(tmp_path / f"a.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_format_does_not_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError), rows_written(tmp_path / "a.csv", ["a"]) as write:
        write([{"a": 1, "b": 2}])
    with pytest.raises(DatasetError), rows_written(tmp_path / "a.parquet", ["a"]) as write:
        write([{"a": 1}])
    with rows_written(tmp_path / "a.jsonl", ["a"]) as write:
        write([{"a": 1, "b": float("nan")}])
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"a": 1, "b": None}
    for name in ("a.txt", "a"):
        with pytest.raises(UsageError):
            check_ending(Path(name))


def test_a_folder_that_does_not_exist_is_an_error_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "no" / "a.csv"
    with pytest.raises(UsageError) as caught, rows_written(path, ["a"]):
        pass
    assert str(path.parent) in caught.value.hint
