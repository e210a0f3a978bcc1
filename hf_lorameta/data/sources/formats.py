"""The formats of data files: what a file's name says about how it is read.

To add one: a row of `FORMATS`, and its reader if no other format has it.
"""

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class FileFormat:
    """A format of data files.

    Attributes:
        title: its name in sentences.
        reader: the module of `datasets` for it; ``text`` and ``json`` are read by our own code.
            For a format with `parts`, the reader in `hf_lorameta.data.sources.containers`.
        on_page: whether the page takes uploads of it.
        separator: of its columns; None if a file shows it.
        parts: what a file has several of, each a dataset: sheets, tables or files.
        alone: whether `datasets` finds no such files in folders and repos.
    """

    title: str
    reader: str
    on_page: bool = False
    separator: str | None = None
    parts: str = ""
    alone: bool = False

    @property
    def may_be_compressed(self) -> bool:
        """Whether an ending of `COMPRESSIONS` may follow: its files are text, read as a stream."""
        return self.reader in ("json", "csv", "text")


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
    ".xlsx": FileFormat("a spreadsheet", "sheets", on_page=True, parts="sheets", alone=True),
    ".xls": FileFormat("a spreadsheet", "sheets", on_page=True, parts="sheets", alone=True),
    ".ods": FileFormat("a spreadsheet", "sheets", on_page=True, parts="sheets", alone=True),
    ".sqlite": FileFormat("SQLite", "sqlite", on_page=True, parts="tables", alone=True),
    ".sqlite3": FileFormat("SQLite", "sqlite", on_page=True, parts="tables", alone=True),
    ".db": FileFormat("SQLite", "sqlite", on_page=True, parts="tables", alone=True),
    ".zip": FileFormat("a ZIP archive", "archive", on_page=True, parts="files"),
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
