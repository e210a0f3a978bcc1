"""Local files as a dataset: their formats, separators and encodings."""

import atexit
import glob
import hashlib
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from hf_lorameta.data.sources.json_objects import Rows, rows_by_key
from hf_lorameta.data.sources.raw_dataset import RawDataset, prepare_datasets, read_builder
from hf_lorameta.data.sources.reading_errors import reading
from hf_lorameta.data.sources.split_names import pick_split, split_name
from hf_lorameta.errors import DatasetError, DatasetTooLargeError
from hf_lorameta.files import sha256

FORMATS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv",
    ".txt": "text", ".parquet": "parquet",
}  # fmt: skip
"""Endings of files, each with the name of its reader in `datasets`."""
_SHEETS = (".xlsx", ".xls", ".ods")
_COMPRESSIONS = (".gz", ".bz2", ".xz")
_PART = "train"
"""The builder's name of the split, since keys of a JSON object need not be names of splits."""
_START = 1 << 16
_NAME_ANOTHER = "name a file, or a Hub id: user/name"
_NUMBER = rb"(-?\d[\d.]*|true|false)\b"
_BARE_VALUE = re.compile(rb"(\xef\xbb\xbf)?\s*(\"|%b|\[\s*(%b|\[))" % (_NUMBER, _NUMBER))


def is_local(name: str | Path) -> bool:
    """Whether a name is one of local files, not a Hub id.

    Names with wildcards are; user/rows.csv is one if the folder exists.
    """
    path = Path(name).expanduser()
    if ending(path) not in FORMATS:
        return False
    return path.exists() or len(path.parts) != 2 or path.parent.is_dir() or _wild(str(name))


def ending(path: Path) -> str:
    """Return the ending that states a file's format, without that of a compression.

    Example:
        >>> ending(Path("rows.jsonl.gz")), ending(Path("rows.CSV"))
        ('.jsonl', '.csv')
    """
    packed = path.suffix.lower() in _COMPRESSIONS
    return (path.with_suffix("") if packed else path).suffix.lower()


def find_files(name: str | Path) -> list[Path]:
    """Return the files that a name of local files stands for, all with its ending.

    Raises:
        DatasetError: a file is missing or is a folder.
    """
    path = Path(name).expanduser()
    files = [path]
    if _wild(str(name)):
        files = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not files:
        raise DatasetError(f"{name}: no file matches", hint=_NAME_ANOTHER)
    for path in files:
        if not path.is_file():
            problem = " is a folder" if path.is_dir() else ": no such file"
            raise DatasetError(f"{path}{problem}", hint=_NAME_ANOTHER)
    return files


def _wild(text: str) -> bool:
    return glob.has_magic(text) and not Path(text).expanduser().exists()


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one file, or of the digests of several."""
    first, *others = (sha256(path) for path in files)
    return hashlib.sha256("".join([first, *others]).encode()).hexdigest() if others else first


def open_files(files: Sequence[Path], split: str | None) -> RawDataset:
    """Open files as one stream of rows.

    Raises:
        DatasetError: a file cannot be read, or there is no such split.
    """
    import datasets

    first, paths, guard = files[0], files, partial(_reading_files, files)
    form = FORMATS.get(ending(first), "text")
    if form == "json":
        _refuse_bare_values(first)
    lists = _rows_in_objects(files)
    several = len(lists) > 1
    name = pick_split(first.name, list(lists) if several else ["train"], split)
    notes: tuple[str, ...] = ()
    if lists:
        key, rows = (split_name(name), lists[split_name(name)]) if several else lists.popitem()
        shown = first.name if len(files) == 1 else "Each file"
        read = f"the rows below {key} are read" if key else f"it is read as {len(rows)} rows"
        notes = (f"{shown} is one object: {read}",)
        paths = [_as_lines(rows)]
    with guard():
        prepare_datasets()
        builder = datasets.load_dataset_builder(
            form,
            data_files={_PART: [glob.escape(str(path)) for path in paths]},
            **({"sep": "\t"} if form == "csv" and ending(first) == ".tsv" else {}),
        )
    raw = read_builder(builder, first.name, name, guard, _PART)
    return replace(
        raw,
        notes=notes + raw.notes,
        named_split=bool(split) or several,
        revision=f"sha256:{digest(files)}",
    )


def _rows_in_objects(files: Sequence[Path]) -> dict[str, Rows]:
    """Return the lists of rows that JSON files hold which are one object each, see `rows_by_key`.

    Raises:
        DatasetError: some of the files are such objects, or have other keys, and others are not.
    """
    found: list[dict[str, Rows]] = []
    for path in files:
        with reading(str(path)), _open(path) as file:
            found.append(rows_by_key(file) if ending(path) == ".json" else {})
    common = [key for key in found[0] if all(key in others for others in found)]
    if any(found) and not common:
        raise DatasetError(
            f"{files[0].name} and the other files hold their rows in different forms",
            hint="name files of one form",
        )
    return {key: [row for lists in found for row in lists[key]] for key in common}


def _as_lines(rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines to a file that is deleted at exit."""
    folder = tempfile.mkdtemp(prefix="hf-lorameta-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "rows.jsonl")
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def _open(path: Path) -> IO[bytes]:
    import fsspec

    file: IO[bytes] = fsspec.open(str(path), "rb", compression="infer").open()
    return file


# --- other formats ------------------------------------------------------------------------------


def how_to_read(path: Path) -> str:
    """Return what to do with a file whose ending is not in `FORMATS`."""
    name = shlex.quote(str(path))
    if ending(path) in _SHEETS:
        new = str(path.with_suffix(".csv"))
        code = f"import pandas; pandas.read_excel({str(path)!r}).to_csv({new!r}, index=False)"
        return f"convert it, with pandas and openpyxl: python -c {shlex.quote(code)}"
    with path.open("rb") as file:
        if b"\0" in file.read(_START):
            return _NAME_ANOTHER
    return f"name it after its format, as .txt if each line is a text: cp {name} {name}.txt"


# --- errors -------------------------------------------------------------------------------------


def _shown(files: Sequence[Path]) -> str:
    """Return what an error is about that does not name the file."""
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
        for path in files:
            if line := _malformed_line(path):
                raise DatasetError(
                    f"{path} cannot be read: line {line} is not a JSON value in UTF-8",
                    hint="correct that line: each line must be one JSON object",
                ) from None
        if type(error) is DatasetError:
            hint = f"check that it is a well-formed {ending(files[0])} file"
            raise DatasetError(str(error), hint=hint) from None
        raise


def _refuse_bare_values(path: Path) -> None:
    """Refuse JSON whose first row is a number, a boolean or a list, or whose lines are strings."""
    with reading(str(path)), _open(path) as file:
        start = file.read(4096)
    if _BARE_VALUE.match(start):
        raise DatasetError(
            f"{path}: the rows are not objects",
            hint='write each row as an object, such as {"input": "…", "output": "…"}',
        )


def _malformed_line(path: Path) -> int | None:
    """Return the number, from 1, of the first line of a JSON lines file that is not JSON."""
    if ending(path) not in (".jsonl", ".ndjson"):
        return None
    try:
        with _open(path) as file:
            return next((number for number, line in enumerate(file, 1) if not _is_json(line)), None)
    except (OSError, EOFError):
        return None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig").strip() or "null")
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested too deeply
        return False
    return True
