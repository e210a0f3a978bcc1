"""Parquet files that decode to far more than their size are read a few rows at a time."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_lorameta.data.sources.files import open_files

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
