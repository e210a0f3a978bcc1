"""The formats of data files: what a file's name says about how it is read.

To add one that `datasets` does not read: a row of `FORMATS`, with ``alone=True`` and `Parts` of two
functions in a module of their own, a row of `KINDS` in ``tests/data/file_kinds.py``, and the list
in ``data/README.md``; its endings leave `UNREAD`, and the advice there goes to `Parts`. Help,
messages and the page follow. Such files are read where they are named or in a local folder, but not
in archives and Hub repos, which `datasets` reads.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from hf_lorameta.data.sources.containers import (
    packed_files,
    sheet_rows,
    sheets,
    table_rows,
    tables,
)

Rows = Callable[[Path, str], Iterator[dict[str, Any]]]
"""Yields the rows of the part of a name; what it raises is told as that the file is unreadable."""


@dataclass(frozen=True)
class Parts:
    """What a file of a format has one or several of, each a dataset: how they are read.

    Attributes:
        one: what a part is called, such as sheet.
        several: what they are called, such as sheets.
        advice: for a file in which no such part can be read.
        names: lists those of a file; raises ValueError if it is none of the format, or DatasetError
            to say what is wrong with it.
        rows: reads one; None if they are files of other formats, which are unpacked.
        bare_rows: reads one whose first row does not name the columns; None if there are none.
    """

    one: str
    several: str
    advice: str
    names: Callable[[Path], Iterable[str]]
    rows: Rows | None = None
    bare_rows: Rows | None = None


@dataclass(frozen=True)
class FileFormat:
    """A format of data files.

    Attributes:
        title: its name in sentences.
        module: that of `datasets` for it; ``text`` and ``json`` are read by our own code.
        parts: how its files are read, if `datasets` does not read them; not compressed or packed.
        on_page: whether the page takes uploads of it.
        separator: of its columns; None if a file shows it.
        alone: whether `datasets` finds no such files in folders and repos; those of a folder are
            read if it has no other data files.
        starts: how its files may begin if they are not text.
    """

    title: str
    module: str = ""
    parts: Parts | None = None
    on_page: bool = False
    separator: str | None = None
    alone: bool = False
    starts: tuple[bytes, ...] = ()

    @property
    def may_be_compressed(self) -> bool:
        """Whether an ending of `COMPRESSIONS` may follow: its files are text, read as a stream."""
        return self.module in ("json", "csv", "text")


_ZIP, _OLE, _DATABASE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"SQLite format 3\0"
_UNPACK = "unpack it, and name a file or the folder"
_VIEW = "to read a view: sqlite3 -header -csv FILE 'SELECT * FROM VIEW' > rows.csv"
_FILES = Parts("file", "files", _UNPACK, packed_files)
_SHEETS = Parts(
    "sheet", "sheets", "add rows below the first one", sheets, sheet_rows,
    partial(sheet_rows, header=False),
)  # fmt: skip
_TABLES = Parts("table", "tables", _VIEW, tables, table_rows)
_SPREADSHEET = FileFormat(
    "a spreadsheet", parts=_SHEETS, on_page=True, alone=True, starts=(_ZIP, _OLE)
)
_SQLITE = FileFormat("SQLite", parts=_TABLES, on_page=True, alone=True, starts=(_DATABASE,))

FORMATS = {
    ".jsonl": FileFormat("JSON lines", "json", on_page=True),
    ".ndjson": FileFormat("JSON lines", "json"),
    ".jsonlines": FileFormat("JSON lines", "json", alone=True),
    ".json": FileFormat("JSON", "json", on_page=True),
    ".csv": FileFormat("CSV", "csv", on_page=True),
    ".tsv": FileFormat("TSV", "csv", on_page=True, separator="\t"),
    ".txt": FileFormat("text", "text"),
    ".conll": FileFormat("CoNLL", "text"),
    ".conllu": FileFormat("CoNLL-U", "text"),
    ".bio": FileFormat("words with tags", "text", alone=True),
    ".iob": FileFormat("words with tags", "text", alone=True),
    ".parquet": FileFormat("Parquet", "parquet", on_page=True, starts=(b"PAR1",)),
    ".arrow": FileFormat("Arrow", "arrow"),
    ".feather": FileFormat("Feather", "arrow", alone=True),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), _SPREADSHEET),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), _SQLITE),
    ".zip": FileFormat("a ZIP archive", parts=_FILES, on_page=True, starts=(_ZIP,)),
}
"""The formats by the ending of a file's name; messages and help list them in this order."""
_TO_CSV = "to_csv('rows.csv', index=False)"
_THEN = f"hf_lorameta.plan(rows) in Python, or pandas.DataFrame(rows).{_TO_CSV}"
UNREAD = {
    **dict.fromkeys((".xlsm", ".xlsb", ".numbers"), "save it as .xlsx or CSV"),
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar"), _UNPACK),
    **dict.fromkeys(
        (".pdf", ".doc", ".docx", ".html"),
        "save its rows as CSV, or its texts as lines of a .txt file",
    ),
    **dict.fromkeys(
        (".yml", ".yaml"),
        "for examples of intents (Rasa): rows = [{{'text': line[2:], 'intent': group['intent']}} "
        "for group in yaml.safe_load(pathlib.Path({name}).read_text())['nlu'] if 'intent' in group "
        f"for line in group['examples'].splitlines()]; then {_THEN}",
    ),
    ".xml": "if each element below the root is a row: pandas.read_xml({name}, parser='etree')."
    f"{_TO_CSV}; else save its rows as CSV, or its texts as lines of a .txt file",
    ".tmx": "rows = [[''.join(seg.itertext()) for seg in unit.iter('seg')] for unit in "
    "xml.etree.ElementTree.parse({name}).iter('tu')]; then pandas.DataFrame(rows, columns=['source'"
    f", 'target']).{_TO_CSV}",
    ".m2": "write its original and its corrected sentences, one a line, with corr_from_m2.py of "
    "the BEA-2019 shared task, and join both: (printf 'input\\toutput\\n'; paste original.txt "
    "corrected.txt) > rows.tsv",
    ".chatito": "generate its examples: npx chatito {name} --format=rasa; the rows are in the list "
    "common_examples, with text and intent",
    ".md": "if each heading is a question: rows = [dict(zip(('question', 'answer'), part.split("
    "'\\n', 1))) for part in pathlib.Path({name}).read_text().split('\\n## ')[1:]]; then "
    f"{_THEN}",
}
"""What to do with a file whose ending states a format that is not read; {name} is the file's."""
COMPRESSIONS = {".gz": b"\x1f\x8b", ".bz2": b"BZh91AY&SY", ".xz": b"\xfd7zXZ\0"}
"""Endings that may follow that of a format, and how files begin that are so compressed."""
ON_PAGE = (*(ending for ending, form in FORMATS.items() if form.on_page), ".gz")
"""The endings of files that the page takes."""


def is_on_page(name: str) -> bool:
    """Whether the page takes a file of this name.

    Example:
        >>> [is_on_page(name) for name in ("a.CSV", "a.csv.gz", "a.csv.xz", "a.gz", "a.pdf")]
        [True, True, False, False, False]
    """
    return PurePath(name).suffix.lower() in ON_PAGE and ending(name) in ON_PAGE


def ending(path: PurePath | str) -> str:
    """Return the ending that states a file's format, without that of a compression.

    Example:
        >>> ending("rows.jsonl.gz"), ending("rows.CSV")
        ('.jsonl', '.csv')
    """
    return _unpacked(PurePath(path)).suffix.lower()


def endings_of(start: bytes) -> list[str]:
    """Return the endings that a file may have that begins so; none if it may be text.

    Example:
        >>> endings_of(b"PAR1"), endings_of(b"PK\\x03\\x04"), endings_of(b"text,label")
        (['.parquet'], ['.xlsx', '.xls', '.ods', '.zip'], [])
    """
    starts = {end: form.starts for end, form in FORMATS.items()}
    starts |= {end: (mark,) for end, mark in COMPRESSIONS.items()}
    return [end for end, marks in starts.items() if start.startswith(marks)]


def stem(name: str) -> str:
    """Return the name of a data file without its endings; any other name as it is.

    Example:
        >>> stem("data/rows.CSV.gz"), stem("rows.conll"), stem("v1.5"), stem("v1.gz")
        ('rows', 'rows', 'v1.5', 'v1.gz')
    """
    path = PurePath(name)
    return _unpacked(path).stem if ending(path) in FORMATS else path.name


def _unpacked(path: PurePath) -> PurePath:
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
