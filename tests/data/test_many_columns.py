"""Tables with more columns than anybody needs are refused before their rows are gone through."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_lorameta import open_dataset
from hf_lorameta.errors import DatasetTooLargeError
from tests.conftest import Account, Shell

COLUMNS = 2500


def write_wide(path: Path) -> Path:
    """Write a file of two rows with many columns."""
    names = [f"a {i}" for i in range(COLUMNS)]
    row = dict.fromkeys(names, "b")
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([row, row]), path)
    elif path.suffix == ".csv":
        lines = [";".join(f'"{cell}"' for cell in line) for line in (names, row.values())]
        path.write_text("\n".join([*lines, lines[1]]))
    else:
        path.write_text("\n".join([json.dumps(row)] * 2))
    return path


@pytest.mark.parametrize("name", ["wide.csv", "wide.jsonl", "wide.json", "wide.parquet"])
def test_a_table_with_many_columns_is_refused(name: str, tmp_path: Path) -> None:
    path = write_wide(tmp_path / name)
    with pytest.raises(DatasetTooLargeError, match="has more than 2,000 columns"):
        open_dataset(path)


@pytest.mark.parametrize("name", ["wide.csv", "wide.jsonl", "wide.parquet"])
def test_so_is_one_on_the_hub(name: str, cli: Shell, user: Account, tmp_path: Path) -> None:
    repo = user.dataset("wide", {name: write_wide(tmp_path / name).read_bytes()})
    assert "has more than 2,000 columns" in cli("plan", "-d", repo, code=3).err
