"""Local files as a dataset: their formats, separators and encodings."""

import codecs
import csv
import glob
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

from hf_lorameta.data.json_objects import row_lists, rows_of_object
from hf_lorameta.errors import DatasetError, DatasetTooLargeError, EmptyDatasetError
from hf_lorameta.files import sha256
from hf_lorameta.hub.dataset_repo import RawDataset, raw_dataset
from hf_lorameta.hub.errors import reading
from hf_lorameta.hub.limited_stream import limit_rows, row_total, text_streams
from hf_lorameta.hub.reading_limits import DEFAULT_LIMITS, ReadingLimits
from hf_lorameta.hub.split_names import pick_split, split_name
from hf_lorameta.hub.text_formats import (
    SEPARATORS,
    UTF8,
    encoding_note,
    encoding_of,
    header_note,
    lacks_header,
    name_columns,
)

STDIN = "-"
FORMATS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv",
    ".txt": "text", ".parquet": "parquet",
}  # fmt: skip
"""Endings of files, each with the name of its reader in `datasets`."""
_COMPRESSIONS = (".gz", ".bz2", ".xz")
_START = 1 << 16
_CHUNK = 1 << 20
_NUMBER = rb"(-?\d[\d.]*|true|false)\b"
_BARE_VALUE = re.compile(rb"(\xef\xbb\xbf)?\s*(\"|%b|\[\s*(%b|\[))" % (_NUMBER, _NUMBER))


def is_local(name: str | Path) -> bool:
    """Whether a name is one of local files, not a Hub id.

    ``-``, names with wildcards, and several names with commas between them are; user/rows.csv is
    one if the folder exists.
    """
    text = str(name)
    if text == STDIN or _parts(text):
        return True
    path = Path(name).expanduser()
    known = ending(path) in FORMATS
    return known and (path.exists() or len(path.parts) != 2 or path.parent.is_dir() or _wild(text))


def ending(path: Path) -> str:
    """Return the ending that states a file's format, without that of a compression.

    Example:
        >>> ending(Path("rows.jsonl.gz")), ending(Path("rows.CSV"))
        ('.jsonl', '.csv')
    """
    packed = path.suffix.lower() in _COMPRESSIONS
    return (path.with_suffix("") if packed else path).suffix.lower()


def find_files(name: str | Path) -> list[Path]:
    """Return the files that a name stands for.

    Raises:
        DatasetError: a file is missing, is a folder, or is of another format than the others.
    """
    text = str(name)
    if text == STDIN:
        return [_read_stdin()]
    files = []
    for part in _parts(text) or [text]:
        path = Path(part).expanduser()
        found = [path]
        if _wild(part):
            found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        files += [file for file in found if ending(file) in FORMATS]
        if not found:
            raise DatasetError(
                f"{part}: no file matches", hint="name a file, or a Hub id: user/name"
            )
    for path in files:
        if path.is_dir():
            raise DatasetError(
                f"{path} is a folder", hint="name a file in it, or a Hub id: user/name"
            )
        if not path.is_file():
            raise DatasetError(f"{path}: no such file", hint="name a file, or a Hub id: user/name")
    kinds = {FORMATS[ending(path)] for path in files}
    if len(kinds) != 1:
        raise DatasetError(
            f"{text}: expected files of one format, got {', '.join(sorted(kinds)) or 'none'}",
            hint=f"name files that end in {', '.join(FORMATS)}",
        )
    return files


def _wild(text: str) -> bool:
    return glob.has_magic(text) and not Path(text).expanduser().exists()


def _parts(text: str) -> list[str]:
    """Return the names of several files with commas between them; none if it is one name."""
    parts = text.split(",")
    if len(parts) < 2 or Path(text).exists():
        return []
    return parts if all(ending(Path(part)) in FORMATS for part in parts) else []


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one file, or of the digests of several."""
    digests = [sha256(path) for path in files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def open_files(
    files: Sequence[Path], split: str | None, limits: ReadingLimits = DEFAULT_LIMITS
) -> RawDataset:
    """Open files as one stream of rows.

    Raises:
        DatasetError: a file cannot be read, or there is no such split.
    """
    import datasets

    first, guard = files[0], partial(_reading_files, files)
    kind = FORMATS[ending(first)]
    if kind == "json":
        _refuse_bare_values(first)
    datasets.disable_progress_bars()
    lists = _row_lists(files)
    name = pick_split(first.name, lists if len(lists) > 1 else ["train"], split)
    options: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    shown = first.name if len(files) == 1 else "Each file"
    if lists:
        options["field"] = split_name(name) if len(lists) > 1 else lists[0]
        notes = (f"{shown} is one object: the rows below {options['field']} are read",)
    elif objects := _in_objects(files, rows_of_object):
        rows = [row for found in objects for row in found]
        files = [_as_lines(rows)]
        notes = (f"{shown} is one object: it is read as {len(rows)} rows",)
    with guard():
        if kind != "parquet":
            encoding = _common_encoding(files)
            if encoding != "utf-8":
                options["encoding"] = encoding
                notes += (encoding_note(first.name, encoding),)
        if kind == "csv":
            separator = "\t" if ending(first) == ".tsv" else _separator(first, encoding)
            options |= {"sep": separator, "keep_default_na": False, "na_values": [""]}
        paths = [glob.escape(str(path)) for path in files]
        builder = datasets.load_dataset_builder(
            kind, data_files={split_name(name): paths}, **options
        )
        limit_rows(builder, str(first), limits)
        stream = text_streams(builder)[split_name(name)]
    raw = raw_dataset(stream, name, guard)
    if kind == "csv" and lacks_header(raw.columns, raw.sample):
        name_columns(builder, len(raw.columns))
        notes += (header_note(first.name, len(raw.columns)),)
        stream = text_streams(builder)[split_name(name)]
        raw = raw_dataset(stream, name, guard)
    total, named = partial(row_total, builder, name), bool(split) or len(lists) > 1
    return replace(raw, notes=notes, total=total, named_split=named)


def _row_lists(files: Sequence[Path]) -> list[str]:
    """Return the keys of the lists of rows that all files have; none if they are no such objects.

    Raises:
        DatasetError: the files have none in common.
    """
    keys = _in_objects(files, row_lists)
    common = [key for key in keys[0] if all(key in others for others in keys)] if keys else []
    if keys and not common:
        raise DatasetError(
            f"{files[0]} has its rows below {', '.join(keys[0])}, which other files lack",
            hint="name files of one form",
        )
    return common


def _in_objects(files: Sequence[Path], read: Callable[[IO[bytes]], list[Any]]) -> list[list[Any]]:
    """Return what is read from each file if it is one JSON object; nothing if it is none.

    Raises:
        DatasetError: some of the files are such objects, and others are not.
    """
    found: list[list[Any]] = [[] for _ in files]
    for path, values in zip(files, found, strict=True):
        if ending(path) == ".json":
            with reading(str(path)), _open(path) as file:
                values += read(file)
    if any(found) and not all(found):
        one = next(path for path, values in zip(files, found, strict=True) if values)
        other = next(path for path, values in zip(files, found, strict=True) if not values)
        raise DatasetError(
            f"{one} is one JSON object that holds rows, and {other} is not of its form",
            hint="name files of one form",
        )
    return found if any(found) else []


def _as_lines(rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as JSON lines to a temporary file."""
    path = Path(tempfile.mkdtemp(dir=_scratch().name), "rows.jsonl")
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def _open(path: Path) -> IO[bytes]:
    import fsspec

    file: IO[bytes] = fsspec.open(str(path), "rb", compression="infer").open()
    return file


# --- encoding and separator ---------------------------------------------------------------------


def _common_encoding(files: Sequence[Path]) -> str:
    encodings = [_encoding(path) for path in files]
    return next((name for name in encodings if name != UTF8), UTF8)


def _encoding(path: Path) -> str:
    with _open(path) as file:
        return encoding_of(file)


def _separator(path: Path, encoding: str) -> str:
    """Return the separator that splits the head of a CSV file into the most columns."""
    with _open(path) as file:
        start = file.read(_START).decode(encoding, "ignore").lstrip("\ufeff")
    lines = start.splitlines() or [""]
    counts = {mark: len(next(csv.reader(lines, delimiter=mark), [])) for mark in SEPARATORS}
    return max(SEPARATORS, key=lambda mark: counts[mark])


# --- stdin --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is deleted at exit."""
    return tempfile.TemporaryDirectory(prefix="hf-lorameta-")


@lru_cache(maxsize=1)
def _read_stdin() -> Path:
    """Copy standard input to a file, since it can be read only once."""
    path = Path(_scratch().name, "stdin")
    with path.open("wb") as file:
        while chunk := sys.stdin.buffer.read(_CHUNK):
            file.write(chunk)
    with path.open("rb") as file:
        start = file.read(_START)
    if not start.strip():
        raise EmptyDatasetError("standard input is empty", hint="cat rows.jsonl | hf-lorameta …")
    return path.rename(path.with_suffix(_guess_ending(start)))


def _guess_ending(start: bytes) -> str:
    """Return the ending of the format that a file's first bytes look like.

    Example:
        >>> _guess_ending(b'{"a": 1}'), _guess_ending(b"a;b"), _guess_ending(b"Some text.")
        ('.jsonl', '.csv', '.txt')
    """
    marks = {b"{": ".jsonl", b"[": ".json", b"PAR1": ".parquet"}
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    found = next((name for mark, name in marks.items() if text.startswith(mark)), None)
    if found:
        return found
    head = text.splitlines()[0].decode("utf-8", "replace")
    return ".csv" if any(mark in head for mark in SEPARATORS) else ".txt"


# --- errors -------------------------------------------------------------------------------------


def _shown(files: Sequence[Path]) -> str:
    """Return what an error that does not tell the file is about."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} or another of the {len(files)} files"


@contextmanager
def _reading_files(files: Sequence[Path]) -> Iterator[None]:
    """Translate the errors of reading local files; of JSON lines, name the malformed line."""
    try:
        with reading(_shown(files)):
            yield
    except DatasetTooLargeError:
        raise
    except DatasetError as error:
        found = next(filter(None, map(_malformed_line, files)), None)
        if found is None and type(error) is DatasetError:
            raise DatasetError(
                str(error), hint=f"check that it is a well-formed {ending(files[0])} file"
            ) from None
        if found is None:
            raise
        raise DatasetError(
            f"{found[0]} cannot be read: line {found[1]} is not a JSON value in UTF-8",
            hint="correct that line: each line must be one JSON object",
        ) from None


def _refuse_bare_values(path: Path) -> None:
    """Refuse JSON whose first row is a number, a boolean or a list, or whose lines are strings."""
    with reading(str(path)), _open(path) as file:
        start = file.read(4096)
    if _BARE_VALUE.match(start):
        raise DatasetError(
            f"{path}: the rows are not objects",
            hint='write each row as an object, such as {"input": "…", "output": "…"}',
        )


def _malformed_line(path: Path) -> tuple[Path, int] | None:
    """Return a file and the number, from 1, of its first line that is not JSON, if it is known."""
    if ending(path) not in (".jsonl", ".ndjson"):
        return None
    try:
        with _open(path) as file:
            bad = (number for number, line in enumerate(file, 1) if not _is_json(line))
            return next(((path, number) for number in bad), None)
    except (OSError, EOFError):
        return None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig").strip() or "null")
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested too deeply
        return False
    return True
