"""Files that hold several datasets: sheets of a spreadsheet, tables of SQLite, files of an archive.

What such a file says of itself is not trusted: how much it unpacks to, how many parts it has and
what they are called is limited, nothing is written under a name from an archive, and a database is
opened read-only, without its views, virtual tables, computed columns and functions.
"""

import re
import sqlite3
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from hf_lorameta.caches import unpacking_folder
from hf_lorameta.environment import require_extra
from hf_lorameta.errors import DatasetError, DatasetTooLargeError
from hf_lorameta.files import sha256
from hf_lorameta.quoting import shell

MAX_UNPACKED = 1_000_000_000
"""Bytes that a file may unpack to: a packed file, or all of a spreadsheet."""
MAX_PARTS = 1000
MAX_NAME = 100
"""Characters of the name of a part; others, and those that cannot be printed, are not read."""
MAX_CELL = 50_000_000
"""Bytes of a value in a database."""
MAX_COLUMNS = 1000
_TITLES = 9
"""Rows above the names of the columns, at most."""
_BLOCK = 1 << 20
_VIRTUAL = re.compile(r"\s*create\s+virtual\b", re.IGNORECASE)
_SQLITE = b"SQLite format 3\0"
_CLOSED = "it is encrypted; save it without a password"


def usable_names(path: Path, names: Iterable[str], several: str, advice: str) -> list[str]:
    """Return the names of parts that can be shown.

    Args:
        path: of the file.
        names: of its parts.
        several: what they are called.
        advice: for too many.

    Raises:
        DatasetTooLargeError: there are too many.
    """
    usable = [n for n in names if n.strip() and len(n) <= MAX_NAME and n.isprintable()]
    if len(usable) > MAX_PARTS:
        raise DatasetTooLargeError(
            f"{path.name} has more than {MAX_PARTS:,} {several}",
            code="file.too-many-parts",
            hint=advice,
        )
    return usable


@contextmanager
def expecting(path: Path, title: str) -> Iterator[None]:
    """Say of a file that cannot be read as what its format is called that it is none.

    Raises:
        DatasetError: instead of what the readers of the formats raise.
    """
    try:
        yield
    except NotImplementedError:  # of `zipfile`
        raise DatasetError(
            f"{path.name} cannot be read: its kind of compression or encryption is not supported",
            code="file.unsupported-packing",
            hint="unpack it, and name a file or the folder",
        ) from None
    except (ValueError, EOFError, zipfile.BadZipFile, sqlite3.DatabaseError):
        problem = f"{path.name} cannot be read: it is not {title}"
        raise DatasetError(problem, code="file.of-another-kind", hint="save it again") from None


def _too_large(path: Path) -> DatasetTooLargeError:
    return DatasetTooLargeError(
        f"{path.name} unpacks to more than {MAX_UNPACKED // 1_000_000:,} MB",
        code="file.unpacks-too-large",
        hint="name a file with a part of its rows",
    )


# --- archives -------------------------------------------------------------------------------------


def packed_files(path: Path) -> list[str]:
    """Return the files in an archive, without those that the Finder of macOS adds."""
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
    parts = {name: PurePosixPath(name.replace("\\", "/")).parts for name in names}
    return [name for name in parts if not any(p.startswith((".", "__")) for p in parts[name])]


def unpack(path: Path, title: str, name: str) -> Path:
    """Return a copy of a packed file in a temporary folder, which is deleted at the end.

    Raises:
        DatasetTooLargeError: it is larger than `MAX_UNPACKED`.
        DatasetError: it is encrypted, or the archive is none of what `title` says.
    """
    folder = unpacking_folder() / sha256(path) / str(packed_files(path).index(name))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / re.sub(r"[^\w.-]", "-", PurePosixPath(name.replace("\\", "/")).name)
    if target.exists():
        return target
    partial, left = folder / "partial", MAX_UNPACKED
    try:
        with (
            expecting(path, title),
            zipfile.ZipFile(path) as archive,
            archive.open(name) as file,
            partial.open("wb") as copy,
        ):
            while block := file.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise _too_large(path)
                copy.write(block)
        partial.replace(target)
    except RuntimeError:  # of `zipfile`, for a password
        raise DatasetError(
            f"{path.name} cannot be read: {_CLOSED}", code="file.encrypted"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return target


# --- spreadsheets ---------------------------------------------------------------------------------


def sheets(path: Path) -> list[str]:
    """Return the names of the sheets that are not hidden and not empty."""
    require_extra("python_calamine", extra="sheets")
    import python_calamine as calamine

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED:
                raise _too_large(path)
    try:
        with calamine.load_workbook(str(path)) as book:
            shown = [
                sheet.name
                for sheet in book.sheets_metadata
                if sheet.visible == calamine.SheetVisibleEnum.Visible
            ][: MAX_PARTS + 1]
            return [name for name in shown if book.get_sheet_by_name(name).total_height > 1]
    except calamine.PasswordError:
        raise DatasetError(
            f"{path.name} cannot be read: {_CLOSED}", code="file.encrypted"
        ) from None
    except calamine.CalamineError:
        raise ValueError(path.name) from None


def sheet_rows(path: Path, name: str, *, header: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the rows of a sheet that have any cell; the first one may name the columns.

    Rows of one cell above one of several are titles, and left out. Cells that are merged above
    several names of columns are their groups.
    """
    import python_calamine as calamine

    with calamine.load_workbook(str(path)) as book:
        sheet = book.get_sheet_by_name(name)
        # the numbers of rows in which cells are merged across columns
        merged = {
            start[0] for start, end in sheet.merged_cell_ranges or ()
            if start[0] == end[0] and start[1] < end[1]
        }  # fmt: skip
        numbered = (
            (number, row[:MAX_COLUMNS]) for number, row in enumerate(sheet.iter_rows())
            if any(cell != "" for cell in row)
        )  # fmt: skip
        first = list(islice(numbered, _TITLES + 1))
        counts = [sum(cell != "" for cell in row) for _, row in first]
        titles = next((row for row, count in enumerate(counts) if count > 1), 0)
        cells = (row for _, row in chain(first[titles:], numbered))
        top = [str(cell).strip() for cell in next(cells, [])] if header else []
        named = top
        if first and first[titles][0] in merged and titles + 1 < len(first):
            named = _below_groups(top, first[titles + 1][1])
        names = _distinct(named)
        for row in islice(cells, int(named != top), None):
            keys = names or [f"column_{number}" for number in range(1, len(row) + 1)]
            filled = (
                (key, cell if cell != "" else None) for key, cell in zip(keys, row, strict=False)
            )
            yield {key: cell for key, cell in filled if key}


def _below_groups(top: list[str], below: Sequence[Any]) -> list[str]:
    """Return the names of columns in a second row, where the first one has groups of columns.

    Example:
        >>> _below_groups(["Mail", "", "Class"], ["text", "lang", ""])
        ['text', 'lang', 'Class']
        >>> _below_groups(["Mail", "", "Reply", ""], ["text", "lang", "text", "lang"])
        ['Mail text', 'Mail lang', 'Reply text', 'Reply lang']
        >>> _below_groups(["", "text", "label"], ["r1", "so", "a"])
        ['', 'text', 'label']
    """
    groups, group = list[str](), ""
    for name in top:
        group = name or group
        groups.append(group)
    gaps = [c for c, name, own in zip(below, top, groups, strict=False) if own and not name]
    if not all(isinstance(cell, str) for cell in below) or not any(gaps):
        return top
    names = [low.strip() or name for low, name in zip(below, top, strict=False)]
    if len(set(names)) == len(names):
        return names
    return [f"{group} {low}".strip() for group, low in zip(groups, below, strict=False)]


def _distinct(names: list[str]) -> list[str]:
    """Return names of columns, with a number behind those that occurred before.

    Example:
        >>> _distinct(["a", "b", "a", ""])
        ['a', 'b', 'a.1', '']
    """
    return [
        f"{name}.{count}" if name and (count := names[:i].count(name)) else name
        for i, name in enumerate(names)
    ]


# --- databases ------------------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database read-only; its schema can call no function that may harm.

    Raises:
        DatasetError: rows are in a file beside it, which only a program that may write can read.
    """
    journal = path.with_name(f"{path.name}-wal")
    if journal.is_file() and journal.stat().st_size:
        raise DatasetError(
            f"{path.name} is read without {journal.name}, which has changes to it",
            code="file.has-journal",
            hint=[
                "close the program that writes it",
                shell("sqlite3", path, "PRAGMA wal_checkpoint(TRUNCATE)"),
            ],
        )
    with path.open("rb") as file:
        if file.read(len(_SQLITE)) != _SQLITE:
            raise sqlite3.DatabaseError
    address = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
    connection = sqlite3.connect(address, uri=True)
    for setting in ("trusted_schema = off", "query_only = on", "cell_size_check = on"):
        connection.execute(f"PRAGMA {setting}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL)
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


def tables(path: Path) -> list[str]:
    """Return the tables that have rows, the longest first.

    Those of SQLite itself, views and virtual tables are left out.
    """
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'table' LIMIT ?"
    with closing(_connect(path)) as connection:
        listed = dict(connection.execute(query, (MAX_PARTS + 1,)).fetchall())
        inner = tuple(f"{name}_" for name, sql in listed.items() if _VIRTUAL.match(str(sql)))
        names = [n for n, sql in listed.items() if not _VIRTUAL.match(str(sql))]
        names = [n for n in names if not n.startswith(("sqlite_", *inner))]
        names = [n for n in names if connection.execute(f"SELECT 1 FROM {_word(n)}").fetchone()]
        return sorted(names, key=lambda name: -_last_row(connection, name))


def _last_row(connection: sqlite3.Connection, table: str) -> int:
    """Return the highest number of a table's rows; 0 if they are not numbered."""
    try:
        (last,) = connection.execute(f"SELECT max(rowid) FROM {_word(table)}").fetchone()
    except sqlite3.OperationalError:
        return 0
    return last if isinstance(last, int) else 0


def table_rows(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table."""
    with closing(_connect(path)) as connection:
        stored = connection.execute(f"PRAGMA table_info({_word(name)})")  # not what is computed
        names = [column[1] for column in stored][:MAX_COLUMNS]
        found = connection.execute(f"SELECT {', '.join(map(_word, names))} FROM {_word(name)}")
        for row in found:
            yield dict(zip(names, row, strict=False))


def _word(name: str) -> str:
    """Return a name as SQL has it, in quotation marks."""
    return '"' + name.replace('"', '""') + '"'
