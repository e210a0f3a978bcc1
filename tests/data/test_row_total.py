"""How many rows a split has, where a limit leaves some unread."""

import json
from pathlib import Path

import pytest

from hf_lorameta import Plan, Recipe, open_dataset, plan
from tests.conftest import Account, Built, Shell, rows

LINES = [json.loads(line) for line in rows(0, 24).splitlines()]


def said(cli: Shell, bank: Built, *options: object) -> str:
    """Return what ``plan`` says about the rows it read."""
    out = cli("plan", *options, "--bank", bank.folder).out
    return next(line for line in out.splitlines() if "effective number" in line).partition(";")[0]


def total(cli: Shell, bank: Built, *options: object) -> object:
    """Return the number of rows in the JSON of ``plan``."""
    return cli("plan", *options, "--bank", bank.folder, "--json").json["dataset"]["total_rows"]


@pytest.mark.parametrize(("stated", "expected"), [(24, "5 of 24"), (3, "5"), (-1, "5"), (0, "5")])
def test_a_card_that_states_enough_rows_is_believed(
    cli: Shell, bank: Built, user: Account, stated: int, expected: str
) -> None:
    split = {"name": "train", "num_bytes": 1, "num_examples": stated}
    card = f"---\ndataset_info:\n  splits: {json.dumps([split])}\n---\n".encode()
    repo = user.dataset("stated", {"train.jsonl": rows(0, 24), "README.md": card})
    few = ("-d", repo, "--max-rows", 5)
    assert said(cli, bank, *few) == f"first {expected} rows"
    if stated == 24:
        assert total(cli, bank, *few) == 24
        assert said(cli, bank, *few, "--split", "train[2:20]") == "first 5 of 18 rows"
        assert said(cli, bank, "-d", repo, "--max-rows", 24) == "24 rows"
        assert said(cli, bank, "-d", repo) == "24 rows"
        assert total(cli, bank, "-d", repo) is None


def test_the_number_of_rows_in_memory_is_known(bank: Built, tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(rows(0, 24))

    def described(data: object) -> str:
        planned: Plan = plan(data, bank.folder, Recipe(max_rows=7))
        return planned.profile.rows_read

    assert described(LINES) == "first 7 of 24 rows"
    assert described(lines) == "first 7 rows"  # a file states no number
    assert open_dataset(LINES, split="train[20:]").total == 4
