"""Parquet files that decode to far more than their size are read a few rows at a time."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_lorameta import Recipe, open_dataset
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.data.sources import raw_dataset
from hf_lorameta.data.sources.files import open_files
from hf_lorameta.pipeline.plan import plan_from_reading
from hf_lorameta.pipeline.read import read_dataset, token_counting
from hf_lorameta.pipeline.rows import RowsAsked, rows_for, rows_used

MB = 1_000_000
MEASURE = """
import resource, sys
from itertools import islice
from hf_lorameta.data.sources.files import open_files
import datasets, pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(1 for _ in islice(open_files(sys.argv[1], None).rows(), 500))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def equal_cells(cell: str, number: int) -> pa.Array:
    """Return a column with the same cell in all rows, stored once."""
    zeros = pa.Array.from_buffers(pa.int32(), number, [None, pa.py_buffer(bytes(4 * number))])
    return pa.DictionaryArray.from_arrays(zeros, pa.array([cell]))


@pytest.mark.parametrize(
    ("cell", "number"), [("a " * 40, 20 * MB), ("a " * (5 * MB // 2), 1000)]
)  # fmt: skip
def test_rows_and_cells_are_bounded_before_they_are_decoded(
    cell: str, number: int, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"input": equal_cells(cell, number), "output": equal_cells("yes", number)})
    pq.write_table(
        table, path, compression="zstd", row_group_size=number, dictionary_pagesize_limit=1 << 30
    )
    assert path.stat().st_size < 2 * MB
    command = [sys.executable, "-c", MEASURE, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    rows, kilobytes = map(int, done.stdout.split())
    assert rows == 500
    assert kilobytes < 400_000


@pytest.mark.parametrize("groups", [1, 3, 100])
def test_rows_of_all_row_groups_are_read_in_their_order(groups: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"input": f"q{i}", "output": {"number": [i, None]}} for i in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=-(-100 // groups))
    assert list(open_files(path, None).rows()) == rows


@pytest.mark.parametrize("groups", [1, 4, 100])
@pytest.mark.parametrize("column", ["text", "chat"])
def test_a_large_file_is_sampled_evenly(
    groups: int, column: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files with lists, the beginnings of row groups are: of a single one, one label."""
    monkeypatch.setattr(raw_dataset, "_WHOLE_ROWS", 900)
    monkeypatch.setattr(raw_dataset, "_READ_ROWS", 100)
    path, labels = tmp_path / "rows.parquet", ["no"] * 500 + ["yes"] * 500
    question = [{"role": "user", "content": "Why?"}]
    more = {"chat": [question]} if column == "chat" else {}
    rows = [{"input": f"q{i}", "output": o} | more for i, o in enumerate(labels)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=-(-1000 // groups))
    opened = open_dataset(path, columns={"input": "input", "output": "output"})
    bank = embedded_bank()
    reading, again = (
        read_dataset(
            open_dataset(path, columns=opened.columns), recipe, token_counting(bank), collect=99
        )
        for recipe in (Recipe(), Recipe(max_rows=0))
    )
    assert reading.profile.rows_read == "100 of 1,000 rows"
    assert again.profile.rows_read == "1,000 rows"
    outputs = Counter(output for _, output in reading.pool)
    spread = column == "text" or groups > 1
    assert abs(outputs["no"] - outputs["yes"]) <= (1 if spread else 100)
    assert opened.total == 1000
    assert len(list(opened.rows())) == 1000  # such as of predictions
    planned = plan_from_reading(reading, bank)
    assert "rows.sampled" in {remark.code for remark in planned.remarks}
    drawn = rows_for(RowsAsked(train=8), reading.pool)
    record = planned.record.model_copy(update={"rows": drawn.drawn})
    assert set(rows_used(record, opened) or ()) == set(drawn.used)
