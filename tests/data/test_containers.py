"""Spreadsheets, databases and archives: what is read of them, and what they may not do."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.data.sources import containers
from hf_lorameta.errors import (
    DatasetError,
    EmptyDatasetError,
)
from hf_lorameta.files import sha256
from tests.data.shapes import zipped
from tests.data.sheets import Table, ods, xlsx
from tests.support.codes import raises_code

PAIRS = [(f'so good {i}, and; "then"', ["pos", "neg"][i % 2]) for i in range(20)]
LINES = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in PAIRS)
TABLE: Table = [("text", "label"), *PAIRS]
CSV = "".join(",".join('"' + str(c).replace('"', '""') + '"' for c in row) + "\n" for row in TABLE)


# --- spreadsheets ---------------------------------------------------------------------------------

MAKERS = {"xlsx": xlsx, "ods": ods}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_sheet_is_read_as_a_table(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("python_calamine")
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(MAKERS[kind]({"Tickets": TABLE}))
    dataset = open_dataset(path)
    assert list(dataset.rows()) == PAIRS
    assert (dataset.split, dataset.revision) == ("train", f"sha256:{sha256(path)}")
    assert open_dataset(path, split="train[:3]").head(9) == PAIRS[:3]
    path.write_bytes(MAKERS[kind]({"Tickets": TABLE[1:]}))
    assert list(open_dataset(path).rows()) == PAIRS


@pytest.mark.parametrize("kind", MAKERS)
def test_of_several_sheets_one_is_asked_for(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("python_calamine")
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(MAKERS[kind]({"Größe [A]": TABLE, "B": TABLE[:4]}))
    with raises_code("split.unknown", match=r"Größe \(A\), B") as error:
        open_dataset(path)
    assert error.value.hint == "add --split 'Größe (A)'"
    assert list(open_dataset(path, split="Größe (A)").rows()) == PAIRS
    assert open_dataset(path, split="B[1:]").head(9) == PAIRS[1:3]


def test_titles_above_the_names_of_columns_are_left_out(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    path = tmp_path / "rows.xlsx"
    title: Table = [("Survey 2024", ""), ("of all visitors", "")]
    path.write_bytes(xlsx({"A": [*title, *TABLE]}))
    assert list(open_dataset(path).rows()) == PAIRS


def test_numbers_hidden_sheets_and_empty_rows_of_a_spreadsheet(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    rows: Table = [
        ("text", "label"),
        *((f"so {i}", i % 2) for i in range(8)),
        ("", ""),
        ("so 9", 1),
    ]
    path = tmp_path / "rows.xlsx"
    path.write_bytes(xlsx({"A": rows, "Lists": TABLE}, 'state="hidden"'))
    assert list(open_dataset(path).rows())[-2:] == [("so 7", "1"), ("so 9", "1")]


def test_a_spreadsheet_that_unpacks_to_much_or_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("python_calamine")
    path = tmp_path / "rows.xlsx"
    path.write_bytes(b"PK\x03\x04 no archive")
    with raises_code("file.of-another-kind"):
        open_dataset(path)
    path.write_bytes(xlsx({"A": [("text", "label"), *[("a" * 1000, "b")] * 500]}))
    monkeypatch.setattr(containers, "MAX_UNPACKED", 100_000)
    with raises_code("file.unpacks-too-large"):
        open_dataset(path)


def test_what_spreadsheets_need_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (tmp_path / "rows.ods").write_bytes(ods({"A": TABLE}))
    with raises_code("extra.missing", match="python_calamine") as error:
        open_dataset(tmp_path / "rows.ods")
    assert "[sheets]" in error.value.hint


# --- databases ------------------------------------------------------------------------------------


def database(path: Path, *statements: str) -> Path:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE tickets (text TEXT, label TEXT)")
    connection.executemany("INSERT INTO tickets VALUES (?, ?)", PAIRS)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


def test_a_table_of_a_database_is_read_and_nothing_is_written(tmp_path: Path) -> None:
    path = database(tmp_path / "rows?#%.db", "CREATE VIEW v AS SELECT * FROM tickets",
                    "CREATE TABLE bare (a)",
                    "ALTER TABLE tickets ADD COLUMN more AS (hex(zeroblob(40000000)))")  # fmt: skip
    before = path.read_bytes()
    assert list(open_dataset(path).rows()) == PAIRS
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_of_several_tables_one_is_asked_for(tmp_path: Path) -> None:
    hostile = 'x"; DROP TABLE tickets; --'
    word = '"' + hostile.replace('"', '""') + '"'
    path = database(
        tmp_path / "rows.sqlite", f"CREATE TABLE {word} AS SELECT * FROM tickets LIMIT 4",
        "CREATE VIRTUAL TABLE search USING fts5 (text)", "INSERT INTO search VALUES ('a b')",
    )  # fmt: skip
    with raises_code("split.unknown") as error:
        open_dataset(path)
    assert str(error.value).endswith(f"only tickets, {hostile}")
    assert error.value.hint == "add --split tickets"
    assert open_dataset(path, split=hostile).head(9) == PAIRS[:4]
    assert list(open_dataset(path, split="tickets").rows()) == PAIRS


def test_changes_beside_a_database_and_views_are_not_left_out_silently(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("CREATE TABLE tickets (text TEXT)")
    connection.commit()
    with raises_code("file.has-journal") as error:
        open_dataset(path)
    assert "wal_checkpoint" in error.value.hint
    connection.execute("CREATE VIEW v AS SELECT 'a b' AS text")
    connection.commit()
    connection.close()
    with raises_code("rows.none") as error:
        open_dataset(path)
    assert "to read a view: sqlite3" in error.value.hint


def test_a_database_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    for content in (b"x" * 100, database(tmp_path / "a.db").read_bytes()[:200]):
        path.write_bytes(content)
        with raises_code("file.of-another-kind"):
            open_dataset(path)


# --- archives -------------------------------------------------------------------------------------


def test_a_packed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.zip"
    path.write_bytes(zipped({"d/rows.csv": CSV, "__MACOSX/d/._rows.csv": "x", "README.md": "#"}))
    dataset = open_dataset(path)
    assert list(dataset.rows()) == PAIRS
    assert dataset.revision == f"sha256:{sha256(path)}"
    path.write_bytes(zipped({"train.jsonl": LINES, "test.jsonl": LINES}))
    assert open_dataset(path).split == "train"
    dataset = open_dataset(path, split="test[2:4]")
    assert (dataset.split, dataset.head(9)) == ("test[2:4]", PAIRS[2:4])
    path.write_bytes(zipped({"a.csv": CSV, "b.csv": CSV}))
    with raises_code("split.unknown", match="a, b"):
        open_dataset(path)


def test_names_in_an_archive_are_no_paths_to_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "unpacked"
    inside.mkdir()
    monkeypatch.setattr(containers, "unpacking_folder", lambda: inside)
    path = tmp_path / "rows.zip"
    names = (
        "../../up.csv",
        "/tmp/root.csv",
        "a\\..\\..\\back.csv",
        "c/\u202e\x07bell.csv",
        "ok.csv",
    )
    path.write_bytes(zipped(dict.fromkeys(names, CSV)))
    with raises_code("split.unknown", match="root, ok"):
        open_dataset(path)
    assert list(open_dataset(path, split="root").rows()) == PAIRS
    written = [file for file in tmp_path.rglob("*") if file.is_file() and file != path]
    assert written
    assert all(file.is_relative_to(inside) for file in written)
    assert all(re.fullmatch(r"[\w.-]+", file.name) for file in written)


def test_an_archive_unpacks_to_a_limited_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "MAX_UNPACKED", 1_000_000)
    path = tmp_path / "rows.zip"
    path.write_bytes(zipped({"rows.csv": CSV + "a" * 2_000_000}))
    with raises_code("file.unpacks-too-large", match=r"rows\.zip"):
        open_dataset(path)
    monkeypatch.setattr(containers, "MAX_PARTS", 3)
    path.write_bytes(zipped({f"{i}.csv": CSV for i in range(4)}))
    with raises_code("file.too-many-parts", match="3"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("content", "error", "problem"),
    [
        (b"PK\x03\x04 no archive", DatasetError, "it is not a ZIP archive"),
        (zipped({"a.png": b"x", "b.zip": zipped({"a.csv": CSV})}), EmptyDatasetError, "no files"),
        (zipped({"pos/1.txt": "so it is", "neg/1.txt": "it is so"}), DatasetError, "the folder"),
        (zipped({"SMSSpamCollection": "ham\thi"}), EmptyDatasetError, "files with rows: unpack it"),
        (zipped({"rows.csv": CSV}).replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00",
         b"PK\x01\x02\x14\x03\x14\x00\x01\x00").replace(b"PK\x03\x04\x14\x00\x00\x00",
         b"PK\x03\x04\x14\x00\x01\x00"), DatasetError, "it is encrypted"),
        (zipped({"rows.csv": 'text,label\n"a'}), DatasetError, r"rows\.zip cannot be read"),
        (zipped({"rows.csv": CSV}).replace(b"\x14\x00\x00\x00\x08\x00",
         b"\x14\x00\x00\x00\x63\x00"), DatasetError, "compression or encryption is not supp"),
    ],
    ids=["junk", "no data", "labels", "no ending", "encrypted", "malformed", "AES"],
)  # fmt: skip
def test_an_archive_without_readable_files_is_refused(
    tmp_path: Path, content: bytes, error: type[DatasetError], problem: str
) -> None:
    (tmp_path / "rows.zip").write_bytes(content)
    with pytest.raises(error) as caught:
        list(open_dataset(tmp_path / "rows.zip").rows())
    assert re.search(problem, f"{caught.value}: {caught.value.hint}")
    assert "unpacked" not in str(caught.value)
