"""Rows of one split as its files have them, before the roles of its columns are known."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from itertools import chain, islice, zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from hf_lorameta.data.sources.csv_tables import as_table, fit_to_files
from hf_lorameta.data.sources.datasets_library import Guard, kind_of, unpacked
from hf_lorameta.data.sources.json_rows import json_rows, rows_by_path
from hf_lorameta.data.sources.reading_errors import QUOTE_TEXTS, read_filled
from hf_lorameta.data.sources.reading_limits import check_number_of_columns
from hf_lorameta.data.sources.split_names import Splits, pick_split, slice_bounds, split_name
from hf_lorameta.data.sources.table_forms import lacks_header
from hf_lorameta.data.sources.text_formats import UTF8, encoding_of
from hf_lorameta.data.sources.text_rows import classes_of, text_rows
from hf_lorameta.errors import DatasetError, EmptyDatasetError, Option
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.remarks import Remark

SAMPLE_ROWS = 32
"""Rows that are read to learn what the columns hold."""
_BATCH_ROWS, _LEAST_ROWS, _BATCH_BYTES = 1024, 16, 1 << 26
"""Rows of a Parquet file that are decoded at once: fewer where one cell may take much memory."""
_WHOLE_ROWS, _WHOLE_BYTES = 200_000, 1 << 27
"""Parquet files of so many rows and bytes, uncompressed, are read whole."""
_READ_ROWS, _READ_BYTES, _LEAST_READ = 25_000, 6_000_000, 4096
"""Of larger ones, so many rows are read, and fewer if their texts are long."""
_INDEX = "__index_level_0__"
"""A column that `datasets` adds where rows of a CSV file have more fields than its header."""


@dataclass(frozen=True)
class RawDataset:
    """Rows of one split as the files have them."""

    columns: list[str]
    labels: dict[str, list[str]]  # class names of each column of class labels, or of lists of them
    config: str | None
    split: str
    rows: Callable[[], Iterator[dict[str, Any]]]  # returns a fresh iterator
    whole: Callable[[], Iterator[dict[str, Any]]]  # iterates over the whole split
    sample: tuple[dict[str, Any], ...] = ()  # the first `SAMPLE_ROWS`
    remarks: tuple[Remark, ...] = ()  # such as on another separator or encoding than usual
    total: int | None = None  # number of rows, if it is known without reading them
    sampled: Callable[[], Iterator[dict[str, Any]]] | None = None  # of a large split: a part of all
    repo: PinnedRepo | None = None  # of the Hub; None for files and rows in memory
    revision: str = "in memory"  # commit hash, or ``sha256:…`` of files


def read_builder(builder: Any, name: str, split: Splits, guard: Guard) -> RawDataset:
    """Read a split of a `datasets` builder with the encoding, separator and header of its files.

    Files on this machine are searched for text that is not UTF-8 before they are read. Of those on
    the Hub, only the start of the first one is, since they would have to be downloaded whole.

    Args:
        builder: a `datasets.DatasetBuilder` of text files.
        name: of the dataset, for messages.
        split: see `pick_split`; for a single JSON file with several lists of rows, one of the
            lists.
        guard: for errors of reading.

    Raises:
        DatasetError: no such split, or the files cannot be read; further errors are those of
            `guard`.
    """
    files = {str(part): list(map(str, urls)) for part, urls in builder.config.data_files.items()}
    only = [url for urls in files.values() for url in urls]
    encoding = ""
    if kind_of(builder) == "json" and len(only) == 1 and ".json" in PurePosixPath(only[0]).suffixes:
        with guard():
            encoding = _encoding_of_files(builder, only)
        with guard(), unpacked(only[0], builder.token) as file:
            lists = rows_by_path(file, PurePosixPath(only[0]).name, encoding)
        if lists:
            return _of_object(name, lists, split)

    def read(part: str) -> RawDataset:
        return _read_split(builder, name, part, encoding, guard)

    return read_filled(name, pick_split(name, list(files), split), files, read)


def _read_split(builder: Any, name: str, split: str, encoding: str, guard: Guard) -> RawDataset:
    """Read a split; see `read_builder`. The encoding is that of its files, if it is known."""
    config, kind, part = builder.config, kind_of(builder), split_name(split)
    with guard():
        _leave_out_empty_files(config.data_files[part])
    urls, remarks = list(map(str, config.data_files[part])), list[Remark]()
    zipped = any(url.endswith(".zip") for url in urls)
    if kind == "text" and not zipped and (table := as_table(builder, part, urls, guard)):
        builder, config, kind = table, table.config, "csv"
    ours = kind in ("json", "text", "conll") and not zipped
    classes = classes_of(urls) if ours and kind == "text" else {}
    folders = sorted({PurePosixPath(url).parent.name for url in urls})
    if classes:
        named = ", ".join(sorted(set(classes.values())))
        text = f"The label of a row is the name of its file or folder: {named}."
        remarks.append(Remark("note", text, code="files.names-are-labels"))
    elif len(folders) > 1 and config.name == "default":
        text = (
            f"Files of the folders {', '.join(folders)} are read as one dataset. To read one of "
            "them, name it as the configuration."
        )
        remarks.append(Remark("note", text, code="files.of-several-folders"))

    def stream() -> Any:
        with guard():
            found = builder.as_streaming_dataset(part)
            check_number_of_columns(name, len(found.features or ()))
            return _without_decoding(found)

    def read() -> RawDataset:
        if ours:
            rows = partial(_rows_in_files, builder, urls, classes, guard)
            return rows_of(rows, split, _class_names(builder.info.features), config.name)
        return raw_dataset(stream(), split, guard)

    sampled, total = None, _row_total(builder, split)
    if kind == "parquet":
        with guard():
            count, step = _sample_of_files(urls)
        if step > 1 and split == part:
            builder._generate_tables = partial(_sampled_tables, builder, step=step)
            sampled, total = partial(_guarded, stream(), guard), count
        builder._generate_tables = partial(_parquet_tables, builder)
    elif hasattr(config, "batch_size"):
        config.batch_size = _BATCH_ROWS
    if getattr(config, "encoding", "") in (None, UTF8):
        with guard():
            encoding = encoding or _encoding_of_files(builder, urls)
        if encoding != UTF8:
            config.encoding = encoding
            text = (
                f"{name} is not UTF-8: it is read as {encoding}. If its text looks wrong, save it "
                "as UTF-8: iconv -f ENCODING -t UTF-8"
            )
            remarks.append(Remark("note", text, code="file.not-utf-8"))
    is_csv = hasattr(config, "sep")
    if is_csv:
        remarks += fit_to_files(builder, urls, name, guard)
    raw = read()
    if ours and kind == "json":
        remarks += _on_other_columns(builder, urls, guard)
    if is_csv and _INDEX in raw.columns:
        raise DatasetError(
            f"{name} has rows with more fields than its first line",
            code="rows.too-many-fields",
            hint=QUOTE_TEXTS,
        )
    if is_csv and lacks_header(raw.columns, raw.sample):
        config.header, config.names = None, [f"column_{i + 1}" for i in range(len(raw.columns))]
        text = f"{name} has no header line: its columns are column_1, column_2, …"
        remarks.append(Remark("note", text, code="file.no-header"))
        raw = read()
    return replace(raw, remarks=tuple(remarks), total=total, sampled=sampled)


def _guarded(stream: Any, guard: Guard) -> Iterator[dict[str, Any]]:
    with guard():
        yield from stream


def _sample_of_files(urls: Sequence[str]) -> tuple[int, int]:
    """Return the number of rows of Parquet files on this disk, and every how manyth is sampled.

    It is each of them if they are not large, or not on this disk.
    """
    import pyarrow.parquet as pq

    if any("://" in url for url in urls):
        return 0, 1
    found = [pq.read_metadata(url) for url in urls]
    rows = sum(one.num_rows for one in found)
    groups = (one.row_group(group) for one in found for group in range(one.num_row_groups))
    return rows, sample_step(rows, sum(group.total_byte_size for group in groups))


def sample_step(rows: int, size: int) -> int:
    """Return every how manyth row of a file is read, so that this takes at most 10 CPU seconds.

    Args:
        rows: of the file.
        size: bytes of all, without compression.

    Example:
        >>> [sample_step(*file) for file in ((200_000, 1 << 27), (10**7, 10**9), (20_000, 10**9))]
        [1, 400, 4]
    """
    if rows <= _WHOLE_ROWS and size <= _WHOLE_BYTES:
        return 1
    wanted = min(_READ_ROWS, max(_READ_BYTES * rows // size, _LEAST_READ))
    return max(rows // wanted, 1)


def _parquet_tables(
    builder: Any, files: Sequence[str], row_groups_list: Sequence[Any] = ()
) -> Iterator[tuple[str, Any]]:
    """Yield the rows of Parquet files, a few at a time, for `datasets`.

    It would decode a whole row group at once, which may have any number of rows: two megabytes hold
    20 million equal ones. No cell is longer than its column is stored without compression.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, (url, groups) in enumerate(zip_longest(files, row_groups_list)):
        with unpacked(url, builder.token) as file, pq.ParquetFile(file) as stored:
            for group in range(stored.num_row_groups) if groups is None else groups:
                columns = stored.metadata.row_group(group)
                sizes = (
                    columns.column(i).total_uncompressed_size for i in range(columns.num_columns)
                )
                rows = max(_LEAST_ROWS, _BATCH_BYTES // max(1, *sizes, 1))
                for batch in stored.iter_batches(min(rows, _BATCH_ROWS), [group]):
                    table = _as_configured(pa.Table.from_batches([batch]), builder.config)
                    yield f"{number}_{group}", builder._cast_table(table)


def _sampled_tables(
    builder: Any, files: Sequence[str], row_groups_list: Sequence[Any] = (), *, step: int
) -> Iterator[tuple[str, Any]]:
    """Yield every so manyth row of Parquet files, as `_parquet_tables` yields all.

    Texts are numbers of different ones until a row is taken, so that equal ones take no memory. Of
    files with lists or objects, whose parts are not, the first rows of each row group are taken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, (url, groups) in enumerate(zip_longest(files, row_groups_list)):
        schema, seen = pq.read_schema(url), 0
        texts = [f.name for f in schema if f.type in (pa.string(), pa.large_string(), pa.binary())]
        nested = any(pa.types.is_nested(field.type) for field in schema)
        with pq.ParquetFile(url, read_dictionary=texts) as stored:
            for group in range(stored.num_row_groups) if groups is None else groups:
                of_group = stored.metadata.row_group(group)
                rows = _BATCH_BYTES * of_group.num_rows // max(of_group.total_byte_size, 1)
                rows = _LEAST_ROWS if nested else max(min(rows, 1 << 16), _BATCH_ROWS)
                wanted = -(-of_group.num_rows // step)
                for batch in stored.iter_batches(rows, [group]):
                    first, by = (0, 1) if nested else (-seen % step, step)
                    places = pa.array(range(first, len(batch), by), pa.int64())[:wanted]
                    seen, wanted = seen + len(batch), wanted - len(places)
                    taken = pa.Table.from_batches([batch.take(places)]).cast(schema)
                    table = _as_configured(taken, builder.config)
                    yield f"{number}_{group}", builder._cast_table(table)
                    if nested and wanted <= 0:
                        break


def _as_configured(table: Any, config: Any) -> Any:
    """Return the rows and columns of a table that a configuration keeps."""
    import pyarrow.parquet as pq

    if (kept := config.filters) is not None:
        table = table.filter(pq.filters_to_expression(kept) if isinstance(kept, list) else kept)
    return table.select(config.columns) if config.columns else table


def _leave_out_empty_files(urls: list[str]) -> None:
    """Remove the files on this disk without a byte, whose columns `datasets` asks for in vain."""
    urls[:] = [url for url in urls if "://" in url or Path(url).stat().st_size] or urls


def _rows_in_files(
    builder: Any, urls: Sequence[str], classes: Mapping[str, str], guard: Guard
) -> Iterator[dict[str, Any]]:
    """Yield the rows of JSON or text files, of several classes in turn."""
    encoding, is_json = builder.config.encoding, kind_of(builder) == "json"
    whole = len(urls) > len(set(classes.values())) > 0

    def rows(url: str) -> Iterator[dict[str, Any]]:
        more = {"label": classes[url]} if classes else {}
        with guard(), unpacked(url, builder.token) as file:
            if is_json:
                yield from json_rows(file, url.rpartition("/")[2], encoding)
            elif whole:
                data = file.read()  # the start of the first file shows the encoding of no other
                own = encoding_of(BytesIO(data)) if encoding == UTF8 else encoding
                yield {"text": data.decode(own), **more}
            else:
                yield from ({**row, **more} for row in text_rows(file, encoding))

    streams: dict[str, list[Iterator[dict[str, Any]]]] = {}
    for url in urls:
        streams.setdefault(classes.get(url, ""), []).append(rows(url))
    for together in zip_longest(*map(chain.from_iterable, streams.values())):
        yield from (row for row in together if row is not None)


def _on_other_columns(builder: Any, urls: Sequence[str], guard: Guard) -> Iterator[Remark]:
    """Tell of files on this disk whose first rows have no column of the first file's."""
    if len(urls) == 1 or any("://" in url for url in urls):
        return
    columns = {url: set(next(_rows_in_files(builder, [url], {}, guard), {})) for url in urls}
    known = columns[urls[0]]
    if other := next((url for url in urls if columns[url] and not columns[url] & known), None):
        first, name = (PurePosixPath(url).name for url in (urls[0], other))
        text = f"{first} and {name} have no column in common: to read one of them, name its file."
        yield Remark("note", text, code="files.no-common-column")


def _of_object(name: str, lists: dict[str, list[dict[str, Any]]], split: Splits) -> RawDataset:
    """Return a list of rows in a JSON file; if there are several, their keys are the splits."""
    split = pick_split(name, list(lists) if len(lists) > 1 else ["train"], split)
    key = split_name(split) if len(lists) > 1 else next(iter(lists))
    rows = lists[key]
    read = f"the rows below {key} are read" if key else f"it is read as {len(rows)} rows"
    remark = Remark("note", f"{name} is one object: {read}", code="file.one-object")
    return replace(rows_of(partial(iter, rows), split), remarks=(remark,))


def _without_decoding(stream: Any) -> Any:
    """Return a stream that leaves images, sounds and other media as they are stored.

    To decode them, `datasets` would open the files of this machine or other hosts that they name.
    Decimals become numbers, as those of other files are.
    """
    from datasets import Json, Value

    features = deepcopy(stream.features)
    for name, feature in (features or {}).items():
        if str(getattr(feature, "dtype", "")).startswith("decimal"):
            features[name] = Value("float64")
    found: list[Any] = [features]
    while found:
        feature = found.pop()
        found += feature.values() if isinstance(feature, dict) else []
        found += filter(None, [getattr(feature, "feature", None)])
        if hasattr(feature, "decode") and not isinstance(feature, Json):
            feature.decode = False
    return stream.cast(features) if features else stream


def _row_total(builder: Any, split: str) -> int | None:
    """Return the number of rows of a split or a slice if the card states it, else None."""
    stated = (builder.info.splits or {}).get(split_name(split))
    total = stated.num_examples if stated else None
    if not isinstance(total, int) or total < 1:
        return None
    return len(range(total)[slice(*slice_bounds(split))])


def _encoding_of_files(builder: Any, urls: Sequence[str]) -> str:
    """Return the encoding of the first file that is not UTF-8; of files on the Hub, by a start."""
    for url in urls[:1] if "://" in urls[0] else urls:
        remote = "://" in url
        with unpacked(url, builder.token, start=remote) as file:
            encoding = encoding_of(file, whole=not remote, name=PurePosixPath(url).name)
        if encoding != UTF8:
            return encoding
    return UTF8


def raw_dataset(stream: Any, split: str, guard: Guard) -> RawDataset:
    """Return the rows of a `datasets.IterableDataset` and the class names that it states."""
    config = getattr(getattr(stream, "info", None), "config_name", None)

    def read() -> Iterator[dict[str, Any]]:
        with guard():
            yield from stream

    return rows_of(read, split, _class_names(stream.features), config)


def rows_of(
    read: Callable[[], Iterator[dict[str, Any]]],
    split: str,
    labels: dict[str, list[str]] | None = None,
    config: str | None = None,
) -> RawDataset:
    """Return the rows of a split, or of a slice of one, with the columns of its first rows.

    Args:
        read: returns an iterator over the rows of the split.
        split: its name, or a slice.
        labels: class names of each column of class labels.
        config: configuration.

    Raises:
        EmptyDatasetError: no rows.
        DatasetTooLargeError: more than `MAX_COLUMNS` columns.
    """
    bounds = slice_bounds(split)

    def chosen() -> Iterator[dict[str, Any]]:
        return islice(read(), *bounds)

    names, sample = dict[str, None](), list[dict[str, Any]]()
    for row in islice(chosen(), SAMPLE_ROWS):
        names |= dict.fromkeys(row)
        check_number_of_columns(f"the split {split}", len(names))
        sample.append(row)
    if not sample:
        raise EmptyDatasetError(
            f"the split {split} has no rows",
            code="rows.none-in-split",
            hint=Option("split", change="name another"),
        )
    return RawDataset(list(names), labels or {}, config, split, chosen, read, tuple(sample))


def _class_names(features: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each column that has class labels, or lists of them."""
    found = {
        name: getattr(feature, "feature", feature) for name, feature in (features or {}).items()
    }
    return {
        name: list(map(str, feature.names))
        for name, feature in found.items()
        if hasattr(feature, "names") and hasattr(feature, "int2str")
    }
