"""recipe.json: one model writes and reads it."""

import json
import math
from pathlib import Path

import pytest

from hf_lorameta import generate, merge
from hf_lorameta.cards.record import RECIPE_FILE, MergeRecord, Record, read_record
from hf_lorameta.cards.results import CheckResult, Counted
from hf_lorameta.errors import AdapterError
from tests.support.plain_bank import plain_bank
from tests.tools import recipe_schema

LINES = [{"input": f"{i}?", "output": "ab"[i % 2]} for i in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = generate(LINES, plain_bank(), budget=0)
    return made.save_pretrained(tmp_path_factory.mktemp("made") / "adapter")


def test_what_is_written_is_read_back(folder: Path) -> None:
    written = json.loads((folder / RECIPE_FILE).read_bytes())
    record = read_record(folder)
    assert isinstance(record, Record)
    assert record.to_dict() == written
    assert record.dataset.columns.answer == "output"
    assert record.recipe["rank"] is None
    assert not record.base_model.four_bit


def test_a_merge_says_of_what_it_was_made(folder: Path, tmp_path: Path) -> None:
    merged = merge({str(folder): 1.0, "general": 0.5}).save_pretrained(tmp_path / "merged")
    record = read_record(merged)
    assert isinstance(record, MergeRecord)
    assert [one.weight for one in record.adapters] == [1.0, 0.5]
    [made] = record.made
    assert made.dataset.rows == len(LINES)


def test_numbers_that_are_not_finite_are_none(folder: Path) -> None:
    record = read_record(folder)
    assert isinstance(record, Record)
    check = CheckResult(4, {"generated": Counted(0, math.inf), "base": Counted(1, math.nan)})
    stored = record.model_copy(update={"check": check}).to_dict()["check"]["counted"]
    assert [one["loss"] for one in stored.values()] == [None, None]


def test_a_record_of_another_version_is_refused(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / RECIPE_FILE).read_bytes())
    file = tmp_path / RECIPE_FILE
    file.write_text(json.dumps(content | {"schema_version": 1}))
    with pytest.raises(AdapterError) as caught:
        read_record(tmp_path)
    assert caught.value.code == "record.other-version"
    file.unlink()
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("dataset", "id", 5), ("dataset", "split", 3), ("dataset", "columns", ["a"]),
        ("recipe", "seed", None), ("recipe", "max_rows", "many"), (None, "recipe", [["rank", 8]]),
        (None, "training", 3), (None, "rows", [1]), (None, "rows", {"pool": "x"}),
        (None, "remarks", ["good"]), (None, "rank", "x"), (None, "more", 1),
    ],
)  # fmt: skip
def test_a_record_that_nobody_wrote_is_not_read(
    folder: Path, tmp_path: Path, part: str | None, field: str, value: object
) -> None:
    """It may be of a stranger's repo: what reads it later must not fail on it."""
    content = json.loads((folder / RECIPE_FILE).read_bytes())
    (content[part] if part else content)[field] = value
    (tmp_path / RECIPE_FILE).write_text(json.dumps(content))
    assert read_record(tmp_path) is None


def test_the_schema_beside_the_model_is_that_of_the_model() -> None:
    assert recipe_schema.FILE.read_text() == recipe_schema.text()
