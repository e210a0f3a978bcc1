"""The formats of data files: what a file's name says about how it is read.

To add one that `datasets` does not read: a row of `FORMATS`, with ``alone=True`` and `Parts` of two
functions in a module of their own, and a row of `KINDS` in ``tests/data/file_kinds.py``. Help,
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
        title: what they are called, in the plural, such as sheets.
        advice: for a file in which no such part can be read.
        names: lists those of a file; raises ValueError if it is none of the format.
        rows: reads one; None if they are files of other formats, which are unpacked.
        bare_rows: reads one whose first row does not name the columns; None if there are none.
    """

    title: str
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
        alone: whether `datasets` finds no such files in folders and repos.
    """

    title: str
    module: str = ""
    parts: Parts | None = None
    on_page: bool = False
    separator: str | None = None
    alone: bool = False

    @property
    def may_be_compressed(self) -> bool:
        """Whether an ending of `COMPRESSIONS` may follow: its files are text, read as a stream."""
        return self.module in ("json", "csv", "text")


_FILES = Parts("files", "unpack it, and name a file or the folder", packed_files)
_SHEETS = Parts(
    "sheets", "add rows below the first one", sheets, sheet_rows, partial(sheet_rows, header=False)
)
_VIEW = "to read a view: sqlite3 -header -csv FILE 'SELECT * FROM VIEW' > rows.csv"
_TABLES = Parts("tables", _VIEW, tables, table_rows)

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
    ".parquet": FileFormat("Parquet", "parquet", on_page=True),
    ".arrow": FileFormat("Arrow", "arrow"),
    ".feather": FileFormat("Feather", "arrow", alone=True),
    ".xlsx": FileFormat("a spreadsheet", parts=_SHEETS, on_page=True, alone=True),
    ".xls": FileFormat("a spreadsheet", parts=_SHEETS, on_page=True, alone=True),
    ".ods": FileFormat("a spreadsheet", parts=_SHEETS, on_page=True, alone=True),
    ".sqlite": FileFormat("SQLite", parts=_TABLES, on_page=True, alone=True),
    ".sqlite3": FileFormat("SQLite", parts=_TABLES, on_page=True, alone=True),
    ".db": FileFormat("SQLite", parts=_TABLES, on_page=True, alone=True),
    ".zip": FileFormat("a ZIP archive", parts=_FILES, on_page=True),
}
"""The formats by the ending of a file's name; messages and help list them in this order."""
COMPRESSIONS = (".gz", ".bz2", ".xz")
"""Endings that may follow that of a format."""
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
