"""Spreadsheets that are made without a library."""

from collections.abc import Mapping, Sequence

from tests.data.shapes import zipped

Table = Sequence[Sequence[str | int]]
_OFFICE = "http://schemas.openxmlformats.org"
_PACKAGE = f"{_OFFICE}/package/2006"
_SHEET = f"{_OFFICE}/spreadsheetml/2006/main"
_LINKS = f"{_OFFICE}/officeDocument/2006/relationships"
_ODF = "urn:oasis:names:tc:opendocument:xmlns"


def xlsx(sheets: Mapping[str, Table], state: str = "", merged: str = "") -> bytes:
    def link(number: int, kind: str, target: str) -> str:
        return f'<Relationship Id="r{number}" Type="{_LINKS}/{kind}" Target="{target}"/>'

    def links(inner: str) -> str:
        return (
            f'<Relationships xmlns="{_OFFICE}/package/2006/relationships">{inner}</Relationships>'
        )

    def cell(place: str, value: str | int) -> str:
        if isinstance(value, int):
            return f'<c r="{place}"><v>{value}</v></c>'
        return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'

    def sheet(rows: Table) -> str:
        cells = (
            "".join(cell(f"{chr(65 + i)}{number}", value) for i, value in enumerate(row))
            for number, row in enumerate(rows, 1)
        )
        inner = "".join(f'<row r="{number}">{row}</row>' for number, row in enumerate(cells, 1))
        merges = f'<mergeCells><mergeCell ref="{merged}"/></mergeCells>' if merged else ""
        return f'<worksheet xmlns="{_SHEET}"><sheetData>{inner}</sheetData>{merges}</worksheet>'

    named = "".join(f'<sheet name="{name}" sheetId="{i}" {state * (i > 1)} r:id="r{i}"/>'
                    for i, name in enumerate(sheets, 1))  # fmt: skip
    numbers = range(1, len(sheets) + 1)
    files = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"/>',
        "_rels/.rels": links(link(1, "officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f'<workbook xmlns="{_SHEET}" xmlns:r="{_LINKS}"><sheets>{named}</sheets>'
        "</workbook>",
        "xl/_rels/workbook.xml.rels": links(
            "".join(link(i, "worksheet", f"worksheets/sheet{i}.xml") for i in numbers)
        ),
    }
    for number, rows in enumerate(sheets.values(), 1):
        files[f"xl/worksheets/sheet{number}.xml"] = sheet(rows)
    return zipped(files)


def ods(sheets: Mapping[str, Table]) -> bytes:
    def cell(value: str | int) -> str:
        kind = "table:table-cell"
        return f'<{kind} office:value-type="string"><text:p>{value}</text:p></{kind}>'

    def row(cells: Sequence[str | int]) -> str:
        return f"<table:table-row>{''.join(map(cell, cells))}</table:table-row>"

    tables = "".join(
        f'<table:table table:name="{name}">{"".join(map(row, rows))}</table:table>'
        for name, rows in sheets.items()
    )
    names = " ".join(f'xmlns:{short}="{_ODF}:{short}:1.0"' for short in ("office", "table", "text"))
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    content = (
        f'<?xml version="1.0"?><office:document-content {names}><office:body><office:spreadsheet>'
        f"{tables}</office:spreadsheet></office:body></office:document-content>"
    )
    manifest = f'<manifest:manifest xmlns:manifest="{_ODF}:manifest:1.0"/>'
    files = {"mimetype": kind, "META-INF/manifest.xml": manifest, "content.xml": content}
    return zipped(files)
