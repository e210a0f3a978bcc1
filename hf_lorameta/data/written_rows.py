"""Write rows to a .csv, .jsonl or .parquet file, one batch after the other, under its final name.

The file appears when all rows are in it.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedWriter, TextIOWrapper
from pathlib import Path
from typing import Any

from hf_lorameta.errors import DatasetError, Option, UsageError, first_line
from hf_lorameta.files import atomic_file, writing

Rows = Sequence[Mapping[str, Any]]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_OTHER_FILE = "name another file"
_AS_JSON = Option("output", "FILE.jsonl")


def check_ending(path: Path) -> None:
    """Refuse a file of another format.

    Raises:
        UsageError: it does not end in .csv, .jsonl or .parquet.
    """
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(
            f"{path} does not end in {', '.join(_WRITERS)}, by which its format is chosen",
            code="predict.unknown-format",
            hint=Option("output", f"{path.stem or 'answers'}.csv"),
        )


@contextmanager
def rows_written(
    path: Path, names: Sequence[str], sample: Rows = ()
) -> Iterator[Callable[[Rows], None]]:
    """Yield a function that writes rows, in order.

    Args:
        path: ends in .csv, .jsonl or .parquet.
        names: of the columns.
        sample: the first rows, whose values show the types of columns in a .parquet file.

    Raises:
        UsageError: the disk is full, or the file cannot be written.
        DatasetError: rows have other columns or types than the format allows.
    """
    with writing(path, UsageError, _OTHER_FILE), atomic_file(path) as file:
        write = _WRITERS[path.suffix.lower()](file, list(names), sample)
        try:
            yield write
        finally:
            close = getattr(write, "close", None)
            if close:
                close()


class _Csv:
    def __init__(self, file: BufferedWriter, names: list[str], _: Rows) -> None:
        self._text = TextIOWrapper(file, "utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._names, self._known = names, set(names)
        self._writer.writerow(map(safe_cell, names))

    def __call__(self, rows: Rows) -> None:
        for row in rows:
            if more := [name for name in row if name not in self._known]:
                raise DatasetError(
                    f"a row has the column {more[0]}, which the first rows lack",
                    code="dataset.other-columns",
                    hint=_AS_JSON,
                )
            self._writer.writerow([safe_cell(row.get(name)) for name in self._names])

    def close(self) -> None:
        self._text.flush()
        self._text.detach()


class _JsonLines:
    def __init__(self, file: BufferedWriter, *_: object) -> None:
        self._file = file

    def __call__(self, rows: Rows) -> None:
        self._file.write("".join(f"{_json(row)}\n" for row in rows).encode())


class _Parquet:
    def __init__(self, file: BufferedWriter, names: list[str], sample: Rows) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._pa = pa
        try:
            found = pa.Table.from_pylist(list(sample))
            types = {field.name: field.type for field in found.schema}
            empty = {name for name, kind in types.items() if pa.types.is_null(kind)}
            fields = [
                pa.field(name, pa.string() if name in empty else types.get(name, pa.string()))
                for name in names
            ]
        except pa.ArrowException as error:
            raise _unfit(error) from None
        self._schema = pa.schema(fields)
        self._writer = parquet.ParquetWriter(file, self._schema)

    def __call__(self, rows: Rows) -> None:
        try:
            self._writer.write_table(self._pa.Table.from_pylist(list(rows), self._schema))
        except self._pa.ArrowException as error:
            raise _unfit(error) from None

    def close(self) -> None:
        self._writer.close()


_WRITERS: Mapping[str, Callable[[BufferedWriter, list[str], Rows], Any]] = {
    ".csv": _Csv, ".jsonl": _JsonLines, ".parquet": _Parquet,
}  # fmt: skip


def _unfit(error: Exception) -> DatasetError:
    return DatasetError(
        f"the rows have columns of several types, which .parquet does not hold: "
        f"{first_line(error)[:200]}",
        code="dataset.several-types",
        hint=_AS_JSON,
    )


def safe_cell(value: Any) -> Any:
    """Return a cell of a .csv file that no spreadsheet runs as a formula; lists become JSON.

    Example:
        >>> [safe_cell(v) for v in ("=1+1", "-5", "- a", None, ["a"], "x")]
        ["'=1+1", '-5', "'- a", '', '["a"]', 'x']
    """
    if value is None:
        return ""
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and not text.startswith(("\t", "\r"))
    except ValueError:
        return False


def _json(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:  # NaN, which JSON does not have
        return json.dumps(_finite(row), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
