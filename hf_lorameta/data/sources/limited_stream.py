"""Stream the rows of a `datasets` builder within limits.

The library decodes a whole row group of a Parquet file at once, and a dictionary lets a file of a
kilobyte hold a gigabyte. Here Parquet is decoded in batches whose size is bounded by what the
file's metadata states, and rows are measured as Arrow tables, before they become Python objects.
A line of JSON is measured while it is read, since parsing a long one takes most of the time.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from copy import deepcopy
from io import BufferedReader, BytesIO
from types import FunctionType, SimpleNamespace
from typing import IO, Any

from hf_lorameta.data.sources import reading_limits
from hf_lorameta.data.sources.reading_limits import row_too_large
from hf_lorameta.data.sources.split_names import slice_bounds, split_name
from hf_lorameta.errors import DatasetError, Option
from hf_lorameta.hub.repo import Token

_BATCH_BYTES = 256 << 20
_BATCH_ROWS = 1024
_BLOCK = 1 << 16
_CHUNKS = {"csv": 1000, "json": 10 << 20, "text": 10 << 20}  # rows, bytes, bytes

_NULL = re.compile(rb"\n(?:\xef\xbb\xbf)?[^\S\n]*+null")
_DIFFER = "%s: rows differ in their columns; those of the first rows are read: %s"

logger = logging.getLogger(__name__)
Tables = Iterator[tuple[Any, Any]]


def unpacked(path: str, token: Token = None) -> AbstractContextManager[IO[bytes]]:
    """Open a local file, or one of the Hub, without its compression, if its name states one."""
    import fsspec

    options = {"hf": {"token": token}} if "://" in path else {}
    opened: AbstractContextManager[IO[bytes]] = fsspec.open(
        path, "rb", compression="infer", **options
    )
    return opened


def limit_rows(builder: Any, name: str) -> None:
    """Make the streams of a builder raise `DatasetTooLargeError` at a row that is too large.

    Args:
        builder: a `datasets.DatasetBuilder` of text files.
        name: of the dataset, for messages.

    Raises:
        DatasetError: a configuration in the dataset's card filters the rows of Parquet files.
    """
    kind = builder.__module__.rpartition(".")[2]
    if kind in _CHUNKS:
        builder.config.chunksize = min(builder.config.chunksize, _CHUNKS[kind])
    read = builder._generate_tables
    if kind == "parquet":
        if builder.config.filters is not None:
            raise DatasetError(
                f"the card of {name} filters the rows of a configuration, which is not supported",
                hint=Option("config", change="name another"),
            )
        read = _ParquetReader(builder, name).tables
    if kind == "json":
        read = _with_limited_lines(read, name)
    builder._generate_tables = _measured(read, name)
    builder._cast_table = _with_known_columns(builder, name)


def _with_known_columns(builder: Any, name: str) -> Callable[..., Any]:
    """Return the builder's cast for files with differing columns: those of the first are read."""
    import pyarrow

    cast, reported = builder._cast_table, False

    def tables(table: Any, *args: Any, **options: Any) -> Any:
        nonlocal reported
        known = list(builder.info.features or table.column_names)
        if set(known) != set(table.column_names):
            if not reported:
                logger.warning(_DIFFER, name, ", ".join(known))
            reported = True
            for missing in set(known) - set(table.column_names):
                table = table.append_column(missing, pyarrow.nulls(len(table)))
            table = table.select(known)
        return cast(table, *args, **options)

    return tables


def text_stream(builder: Any, split: str) -> Any:
    """Return a builder's split as a stream of rows, a `datasets.IterableDataset`.

    Columns of media are not decoded, since they may name files of this machine or other hosts.
    """
    from datasets.features.features import _visit

    stream = builder.as_streaming_dataset(split)
    if not stream.features:
        return stream
    features = deepcopy(stream.features)
    _visit(features, _disable_decoding)
    return stream.cast(features)


def _disable_decoding(feature: Any) -> None:
    """Switch off the decoding of an image, a sound and so on, one of `datasets` features."""
    from datasets import Json

    if hasattr(feature, "decode") and not isinstance(feature, Json):
        feature.decode = False


def _measured(read: Callable[..., Tables], name: str) -> Callable[..., Any]:
    def tables(*args: Any, **kwargs: Any) -> Tables:
        for key, table in read(*args, **kwargs):
            check_row_sizes(table, name)
            yield key, table

    return tables


def _with_limited_lines(read: Any, name: str) -> Callable[..., Tables]:
    """Return a method of a builder that reads lines within the limit, also if they are ``null``.

    `datasets` replaces ``open`` in the builder's module, so it is looked up at each call.
    """

    def tables(*args: Any, **kwargs: Any) -> Tables:
        function = read.__func__
        names = dict(function.__globals__)
        opener, arrow = names.get("open", open), names["paj"]
        names["open"] = lambda *a, **k: limit_lines(opener(*a, **k), name)
        names["paj"] = SimpleNamespace(
            **vars(arrow) | {"read_json": _without_null(arrow.read_json)}
        )
        copy = FunctionType(function.__code__, names, argdefs=function.__defaults__)
        return copy(read.__self__, *args, **kwargs)  # type: ignore[no-any-return]

    return tables


def _without_null(read_json: Callable[..., Any]) -> Callable[..., Any]:
    """Return a reader of JSON lines that takes ``null`` for an object without fields.

    That of `pyarrow` crashes where a block starts with it, whatever follows.
    """

    def tables(file: BytesIO, **options: Any) -> Any:
        lines = _NULL.sub(_as_object, b"\n" + file.getvalue())
        return read_json(BytesIO(lines[1:]), **options)

    return tables


def _as_object(null: re.Match[bytes]) -> bytes:
    """Return ``{}`` for ``null`` that starts a line, unless it is a value in an object or list."""
    before = null.string[max(null.start() - 16, 0) : null.start()].rstrip()
    inside = before.endswith((b",", b":", b"["))
    return null[0] if inside else null[0].replace(b"null", b"{}")


def limit_lines(file: Any, name: str) -> Any:
    """Make ``readline`` of a file raise `DatasetTooLargeError` at a line that is too long.

    Example:
        >>> import io
        >>> lines = io.BytesIO(b"{}\\n" + b"x" * 33_000_000)
        >>> file = limit_lines(lines, "rows.jsonl")
        >>> file.readline()
        b'{}\\n'
        >>> file.readline()
        Traceback (most recent call last):
        hf_lorameta.errors.DatasetTooLargeError: rows.jsonl has a row of more than 32 MB
    """
    from fsspec.spec import AbstractBufferedFile

    if isinstance(file, AbstractBufferedFile):  # whose `readline` takes no size
        file = BufferedReader(file, _BLOCK)
    read_line = file.readline

    def limited() -> Any:
        line = read_line(reading_limits.MAX_ROW_BYTES + 1)
        if len(line) > reading_limits.MAX_ROW_BYTES:
            raise row_too_large(name)
        return line

    file.readline = limited
    return file


def check_row_sizes(table: Any, name: str) -> None:
    """Raise `DatasetTooLargeError` if a row of an Arrow table is too large.

    Example:
        >>> import pyarrow
        >>> table = pyarrow.table({"a": ["x", "y" * 33_000_000]})
        >>> check_row_sizes(table, "rows.csv")
        Traceback (most recent call last):
        hf_lorameta.errors.DatasetTooLargeError: rows.csv has a row of more than 32 MB
    """
    if table.nbytes <= reading_limits.MAX_ROW_BYTES:
        return
    if table.num_rows == 1:
        raise row_too_large(name)
    half = table.num_rows // 2
    check_row_sizes(table.slice(0, half), name)
    check_row_sizes(table.slice(half), name)


class _ParquetReader:
    """Reads Parquet files like the `datasets` builder, but in small batches."""

    def __init__(self, builder: Any, name: str) -> None:
        self._builder, self._name = builder, name

    def tables(self, files: list[str], row_groups_list: list[Any]) -> Tables:
        """Yield tables; has the arguments of the builder's own method."""
        for number, (path, groups) in enumerate(zip(files, row_groups_list, strict=True)):
            with unpacked(path, self._builder.token) as file:
                for count, table in enumerate(self._of_file(file, groups)):
                    yield (number, count), table

    def _of_file(self, file: Any, groups: Any) -> Iterator[Any]:
        import pyarrow
        import pyarrow.parquet as parquet

        opened = parquet.ParquetFile(file)
        for group in range(opened.num_row_groups) if groups is None else groups:
            batches = opened.iter_batches(
                self._batch_rows(opened.metadata.row_group(group)),
                row_groups=[group],
                columns=self._builder.config.columns,
                use_threads=False,  # the file is a Python object, and may be closed early
            )
            for batch in batches:
                yield self._builder._cast_table(pyarrow.Table.from_batches([batch]))

    def _batch_rows(self, group: Any) -> int:
        """Return how many rows to decode at once.

        A dictionary may repeat the largest value, at most the size of the group, in every row.
        """
        columns = (group.column(i) for i in range(group.num_columns))
        size = sum(column.total_uncompressed_size for column in columns)
        mean = size // max(group.num_rows, 1)
        if group.num_rows and mean > reading_limits.MAX_ROW_BYTES:
            raise row_too_large(self._name)
        return int(min(max(_BATCH_BYTES // max(size, 1), 1), _BATCH_ROWS))


# --- the number of rows ---------------------------------------------------------------------------


def row_total(builder: Any, split: str) -> int | None:
    """Return the number of rows of a split, as its card states it.

    Args:
        builder: a `datasets.DatasetBuilder`.
        split: name of a split, or a slice.

    Returns:
        None if it does not.
    """
    stated = (builder.info.splits or {}).get(split_name(split))
    total = stated.num_examples if stated else None
    if not isinstance(total, int) or total < 1:
        return None
    return len(range(total)[slice(*slice_bounds(split))])
