"""How many rows a split has, where a limit leaves some unread."""

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from hf_lorameta import Plan, Recipe, open_dataset, plan
from tests.conftest import Account, Built, Shell, rows

LINES = [json.loads(line) for line in rows(0, 24).splitlines()]


def parquet(lines: list[dict[str, str]]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), buffer, row_group_size=5)
    return buffer.getvalue()


def said(cli: Shell, bank: Built, *options: object) -> str:
    """Return what ``plan`` says about the rows it read."""
    out = cli("plan", *options, "--bank", bank.folder).out
    return next(line for line in out.splitlines() if "effective number" in line).partition(";")[0]


def total(cli: Shell, bank: Built, *options: object) -> object:
    """Return the number of rows in the JSON of ``plan``."""
    return cli("plan", *options, "--bank", bank.folder, "--json").json["dataset"]["total_rows"]


def test_parquet_files_state_their_rows(cli: Shell, bank: Built, user: Account) -> None:
    files = {"train-0.parquet": parquet(LINES[:14]), "train-1.parquet": parquet(LINES[14:])}
    repo = user.dataset("parquet", files)
    few = ("-d", repo, "--max-rows", 5)
    assert said(cli, bank, *few) == "first 5 of 24 rows"
    assert total(cli, bank, *few) == 24
    assert said(cli, bank, *few, "--split", "train[2:20]") == "first 5 of 18 rows"
    assert said(cli, bank, "-d", repo, "--max-rows", 24) == "24 rows"
    assert said(cli, bank, "-d", repo) == "24 rows"
    assert total(cli, bank, "-d", repo) is None


@pytest.mark.parametrize(("stated", "expected"), [(24, "5 of 24"), (3, "5"), (-1, "5"), (0, "5")])
def test_a_card_that_states_enough_rows_is_believed(
    cli: Shell, bank: Built, user: Account, stated: int, expected: str
) -> None:
    split = {"name": "train", "num_bytes": 1, "num_examples": stated}
    card = f"---\ndataset_info:\n  splits: {json.dumps([split])}\n---\n".encode()
    repo = user.dataset("stated", {"train.jsonl": rows(0, 24), "README.md": card})
    assert said(cli, bank, "-d", repo, "--max-rows", 5) == f"first {expected} rows"


def test_rows_in_memory_and_in_a_file_are_described_alike(bank: Built, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(parquet(LINES))
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(rows(0, 24))

    def described(data: object) -> str:
        planned: Plan = plan(data, bank.folder, Recipe(max_rows=7))
        return planned.profile.rows_read

    assert {described(path), described(LINES)} == {"first 7 of 24 rows"}
    assert described(lines) == "first 7 rows"  # a file of lines states no number
    assert open_dataset(path, split="train[20:]").total() == 4
