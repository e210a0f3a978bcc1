"""Formats with several tables on the page: one is chosen, and small files cannot stand for much."""

import io
import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_lorameta.errors import DatasetError
from tests.data.shapes import zipped
from tests.data.sheets import ods, xlsx
from tests.support.codes import raises_code
from work import jobs, planning, reader_process
from work.planning import PageRequest, read_source


@pytest.fixture(scope="module", autouse=True)
def forkserver() -> None:
    """Start what readers are forked from."""
    reader_process.start_forkserver()


def test_of_a_file_with_several_tables_one_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "notes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("first", "second"):
            archive.writestr(f"{name}.jsonl", "".join(
                f'{{"input": "{name} {i} is so", "output": "b"}}\n' for i in range(8)
            ))  # fmt: skip
    request = planning.validated(PageRequest(file=str(path)))
    source = planning.read_source(request, False)
    assert (source.splits, source.preview.split) == (["first", "second"], "first")
    request = planning.validated(PageRequest(file=str(path), split="second"))
    assert planning.read_source(request, False).preview.rows[0]["input"] == "second 0 is so"
    with raises_code("split.unknown"):
        planning.read_source(request.but(split="third"), False)


def test_of_a_json_object_with_several_lists_one_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "data_full.json"
    lists = {name: [[f"{name} {i} is so", "a"] for i in range(8)] for name in ("val", "train")}
    path.write_text(json.dumps(lists | {"a\x07": lists["val"]}))
    source = planning.read_source(PageRequest(file=str(path)), False)
    assert (source.splits, source.preview.split) == (["val", "train"], "train")
    request = planning.validated(PageRequest(file=str(path), split="val"))
    assert planning.read_source(request, False).preview.rows[0]["column_1"] == "val 0 is so"
    path.write_text(json.dumps({f"part {i}": [{"input": "a"}] for i in range(2000)}))
    with raises_code("file.too-many-parts", match="1,000"):
        planning.read_source(PageRequest(file=str(path)), False)


# --- attacks --------------------------------------------------------------------------------------

_REPEATED = '<table:table-row table:number-rows-repeated="1000000"><table:table-cell '
_CELL = 'office:value-type="string" table:number-columns-repeated="100"><text:p>a b</text:p>'


def shared_strings(path: Path) -> None:
    """Write a spreadsheet of 200 kB whose 100,000 cells share a text of a megabyte."""
    cells = "".join(f'<row r="{n}"><c r="A{n}" t="s"><v>0</v></c></row>' for n in range(1, 100_001))
    kind = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    with zipfile.ZipFile(io.BytesIO(xlsx({"A": [("a", "b")]}))) as plain:
        files = {name: plain.read(name) for name in plain.namelist()}
    links = files["xl/_rels/workbook.xml.rels"].decode()
    target = 'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/'
    more = f'<Relationship Id="s1" {target}sharedStrings" Target="sharedStrings.xml"/></Rel'
    files["xl/_rels/workbook.xml.rels"] = links.replace("</Rel", more).encode()
    text = "a " * 500_000
    files["xl/sharedStrings.xml"] = f'<sst xmlns="{kind}"><si><t>{text}</t></si></sst>'.encode()
    sheet = f'<worksheet xmlns="{kind}"><sheetData>{cells}</sheetData></worksheet>'
    path.write_bytes(zipped(files | {"xl/worksheets/sheet1.xml": sheet.encode()}))


def repeated_cells(path: Path) -> None:
    """Write a spreadsheet that says of one cell that it stands for 100 million."""
    with zipfile.ZipFile(io.BytesIO(ods({"A": [("a", "b")]}))) as plain:
        files = {name: plain.read(name).decode() for name in plain.namelist()}
    start, _, end = files["content.xml"].partition("<table:table-row>")
    cell = f"{_REPEATED}{_CELL}</table:table-cell></table:table-row><table:table-row>"
    path.write_bytes(zipped(files | {"content.xml": f"{start}{cell}{end}"}))


def long_values(path: Path) -> None:
    """Write a database whose rows are longer than what is read of one."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE rows (input TEXT, output TEXT)")
    connection.execute("INSERT INTO rows VALUES ('q', hex(zeroblob(30000000)))")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("write", "name", "problem"),
    [
        (shared_strings, "rows.xlsx", "needs more memory"),
        (repeated_cells, "rows.ods", "needs more memory"),
        (long_values, "rows.sqlite", "cannot be read"),
    ],
)
def test_small_files_that_stand_for_much_end_in_a_sentence(
    tmp_path: Path, write: Callable[[Path], None], name: str, problem: str
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(DatasetError, match=problem):
        reader_process.read(jobs.Job(120), read_source, PageRequest(file=str(path)), False)
