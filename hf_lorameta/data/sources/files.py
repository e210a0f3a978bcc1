"""Local files as a dataset: their formats, separators and encodings."""

import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_lorameta.data.sources.json_objects import Rows, rows_by_key
from hf_lorameta.data.sources.memory import listed_rows
from hf_lorameta.data.sources.raw_dataset import (
    RawDataset,
    prepared_datasets,
    read_builder,
    unpacked,
)
from hf_lorameta.data.sources.reading_errors import reading
from hf_lorameta.data.sources.split_names import Splits, pick_split, split_name
from hf_lorameta.errors import DatasetError
from hf_lorameta.files import sha256, similar_name

FORMATS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv",
    ".txt": "text", ".parquet": "parquet",
}  # fmt: skip
"""Endings of files, each with the name of its reader in `datasets`."""
_COMPRESSIONS = (".gz", ".bz2", ".xz")


def is_local(name: str | Path) -> bool:
    """Whether a name is that of local files rather than a Hub id.

    A name with wildcards is; ``user/rows.csv`` is if the folder ``user`` exists.
    """
    path = Path(name).expanduser()
    if ending(path) not in FORMATS:
        return False
    return path.exists() or len(path.parts) != 2 or path.parent.is_dir() or _wild(str(name))


def ending(path: Path) -> str:
    """Return the ending that states a file's format, before that of a compression.

    Example:
        >>> ending(Path("rows.jsonl.gz")), ending(Path("rows.CSV"))
        ('.jsonl', '.csv')
    """
    packed = path.suffix.lower() in _COMPRESSIONS
    return (path.with_suffix("") if packed else path).suffix.lower()


def are_names(value: Any) -> bool:
    """Whether a value is a list of files' names.

    Example:
        >>> are_names(["a.csv", "b.csv"]), are_names([{"text": "a.csv"}]), are_names([])
        (True, False, False)
    """
    listed = isinstance(value, (list, tuple)) and len(value) > 0
    return listed and all(isinstance(name, str | Path) for name in value)


def find_files(name: str | Path) -> list[Path]:
    """Return the file of a name, or the files that a name with wildcards matches.

    Raises:
        DatasetError: a file is missing or is a folder.
    """
    path = Path(name).expanduser()
    files = [path]
    if _wild(str(name)):
        files = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not files or not all(map(Path.is_file, files)):
        problem = " is no file" if path.is_dir() else ": no such file"
        raise DatasetError(f"{name}{problem}", hint=other_name(path))
    return files


def other_name(path: Path) -> list[str]:
    """Suggest a file with a similar name, and other ways to name a dataset.

    Example:
        >>> other_name(Path("no/such/folder/rows.jsonl"))
        ['name a file', 'a Hub id: user/name']
    """
    similar = similar_name(path, lambda other: ending(other) in FORMATS)
    return [*(similar or ["name a file"]), "a Hub id: user/name"]


def _wild(text: str) -> bool:
    return glob.has_magic(text) and not Path(text).expanduser().exists()


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one file, or of the digests of several."""
    first, *others = (sha256(path) for path in files)
    return hashlib.sha256("".join([first, *others]).encode()).hexdigest() if others else first


def open_files(name: str | Path | Sequence[str | Path], split: Splits) -> RawDataset:
    """Open the files that names stand for, see `find_files`, as one stream of rows.

    Raises:
        DatasetError: a file is missing or cannot be read, there is no such split, or one of several
            files is one object that holds rows.
    """
    names = [name] if isinstance(name, str | Path) else name
    found = [file for one in names for file in find_files(one)]
    files = list({file.resolve(): file for file in found}.values())
    name = names[0]
    lists = _rows_in_object(files[0]) if len(files) == 1 else {}
    if len(files) > 1 and (one := next(filter(_rows_in_object, files), None)):
        raise DatasetError(
            f"{one} is one object that holds rows, which is read of a single file only",
            hint="name one file, or write JSON lines: an object for each row",
        )
    raw = _open_object(files[0].name, lists, split) if lists else _open_rows(name, files, split)
    return replace(raw, revision=f"sha256:{digest(files)}")


def _rows_in_object(path: Path) -> dict[str, Rows]:
    """Return the lists of rows in a JSON file that is one object, see `rows_by_key`."""
    with reading(str(path)), unpacked(str(path)) as file:
        return rows_by_key(file) if ending(path) == ".json" else {}


def _open_object(name: str, lists: dict[str, Rows], split: Splits) -> RawDataset:
    """Open one of the lists of rows in a JSON file; of several, the keys are the splits."""
    split = pick_split(name, list(lists) if len(lists) > 1 else ["train"], split)
    key = split_name(split) if len(lists) > 1 else next(iter(lists))
    rows = lists[key]
    read = f"the rows below {key} are read" if key else f"it is read as {len(rows)} rows"
    return replace(listed_rows(rows, split), notes=(f"{name} is one object: {read}",))


def _open_rows(name: str | Path, files: Sequence[Path], split: Splits) -> RawDataset:
    first, guard = files[0], partial(_reading_files, name, files)
    form = FORMATS.get(ending(first), "text")
    with guard():
        builder = prepared_datasets().load_dataset_builder(
            form,
            data_files={"train": [glob.escape(str(path)) for path in files]},
            **({"sep": "\t"} if ending(first) == ".tsv" else {}),
        )
    return read_builder(builder, first.name, pick_split(first.name, ["train"], split), guard)


# --- errors -------------------------------------------------------------------------------------


@contextmanager
def _reading_files(name: str | Path, files: Sequence[Path]) -> Iterator[None]:
    """Translate the errors of reading local files; of JSON lines, name the malformed line."""
    try:
        with reading(str(name)):
            yield
    except DatasetError as error:
        if type(error) is not DatasetError:
            raise
        for path in files:
            if line := _malformed_line(path):
                raise DatasetError(
                    f"{path} cannot be read: line {line} is not a JSON value in UTF-8",
                    hint="correct that line: each line must be one JSON object",
                ) from None
        form = ending(files[0])
        hint = f"check that it is a well-formed {form} file"
        if FORMATS.get(form) == "json":
            hint += ', each row an object, such as {"input": "…", "output": "…"}'
        raise DatasetError(str(error), hint=hint) from None


def _malformed_line(path: Path) -> int | None:
    """Return the number, from 1, of the first line of a JSON lines file that is not JSON."""
    if ending(path) not in (".jsonl", ".ndjson"):
        return None
    with suppress(OSError, EOFError), unpacked(str(path)) as file:
        for number, line in enumerate(file, 1):
            try:
                json.loads(line.decode("utf-8-sig").strip() or "null")
            except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested too deeply
                return number
    return None
