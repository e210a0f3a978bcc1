"""Rows of one split as its files have them, before the roles of its columns are known."""

import csv
import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from itertools import chain, islice, zip_longest
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeAlias

from hf_lorameta.data.sources.json_rows import json_rows, rows_by_path
from hf_lorameta.data.sources.reading_errors import QUOTE_TEXTS, read_filled
from hf_lorameta.data.sources.split_names import Splits, pick_split, slice_bounds, split_name
from hf_lorameta.data.sources.text_formats import (
    DECIMAL,
    START,
    UTF8,
    TableForm,
    as_text,
    columns_in,
    encoding_of,
    form_of_table,
    has_plain_quotes,
    lacks_header,
    lines_of,
)
from hf_lorameta.data.sources.text_rows import classes_of, separator_between, text_rows
from hf_lorameta.errors import DatasetError, DatasetTooLargeError, EmptyDatasetError, Option
from hf_lorameta.hub.repo import PinnedRepo, Token
from hf_lorameta.network import uncompressed

SAMPLE_ROWS = 32
"""Rows that are read to learn what the columns hold."""
_BATCH_ROWS = 1024
"""Rows of a Parquet file that are decoded at once; `datasets` decodes a whole row group."""
MAX_COLUMNS = 2000
"""Most columns of a table; each takes time wherever columns are gone through."""
_AHEAD = 1 << 18
"""Bytes that are downloaded beyond what is read of a file's start."""
_TAB, _QUOTE = "\t", '"'
_INDEX = "__index_level_0__"
"""A column that `datasets` adds where rows of a CSV file have more fields than its header."""
SETTINGS = {
    "HF_UPDATE_DOWNLOAD_COUNTS": False,
    "STREAMING_OPEN_MAX_RETRIES": 1,  # the number of attempts
    "STREAMING_OPEN_RETRY_INTERVAL": 0,  # slept after the last attempt, too
    "STREAMING_READ_MAX_RETRIES": 1,
    "STREAMING_READ_RETRY_INTERVAL": 0,
    "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 0,
    "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL": 0,
}
"""Settings of `datasets`.

Its requests are retried by our client; the further retries that `datasets` adds around those, up to
20 min per read, are switched off for the whole process.
"""
NO_CACHE = "memory://"
"""The cache of `datasets`, which stores no rows here: in a folder it would make lock files."""
Guard: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Makes a context that translates the errors of reading rows."""


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
    notes: tuple[str, ...] = ()  # what to tell the user: another separator or encoding than usual
    total: int | None = None  # number of rows, if it is known without reading them
    repo: PinnedRepo | None = None  # of the Hub; None for files and rows in memory
    revision: str = "in memory"  # commit hash, or ``sha256:…`` of files


def prepared_datasets() -> Any:
    """Return the library `datasets`, safe for threads, without bars, logs, retries or use counts.

    Its error logs may quote rows.

    To count uses, it sends a name to Amazon S3, for up to 3 s, or 5 s if no name can be resolved.
    It splits URLs at ``::``, which an IPv6 address of the Hub may have: it gets another form of it.
    Its bars share a lock. If there is none, tqdm makes one for a call and deletes it afterwards,
    which fails if another thread has done so; a lock that exists before the call stays.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.utils.tqdm.get_lock()
    for name, value in SETTINGS.items():
        setattr(datasets.config, name, value)
    if "::" in datasets.config.HF_ENDPOINT:
        datasets.config.HF_ENDPOINT = uncompressed(datasets.config.HF_ENDPOINT)
        arguments: Any = datasets.utils.hub.hf_dataset_url.keywords
        arguments["endpoint"] = datasets.config.HF_ENDPOINT
    return datasets


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
    urls, notes = list(map(str, config.data_files[part])), list[str]()
    zipped = any(url.endswith(".zip") for url in urls)
    if kind == "text" and not zipped and (table := _as_table(builder, part, urls, guard)):
        builder, config, kind = table, table.config, "csv"
    ours = kind in ("json", "text", "conll") and not zipped
    classes = classes_of(urls) if ours and kind == "text" else {}
    folders = sorted({PurePosixPath(url).parent.name for url in urls})
    if classes:
        named = ", ".join(sorted(set(classes.values())))
        notes.append(f"The label of a row is the name of its file or folder: {named}.")
    elif len(folders) > 1 and config.name == "default":
        notes.append(
            f"Files of the folders {', '.join(folders)} are read as one dataset. To read one of "
            "them, name it as the configuration."
        )

    def read() -> RawDataset:
        if ours:
            rows = partial(_rows_in_files, builder, urls, classes, guard)
            return rows_of(rows, split, _class_names(builder.info.features), config.name)
        with guard():
            stream = builder.as_streaming_dataset(part)
            _check_number(name, len(stream.features or ()))
            stream = _without_decoding(stream)
        return raw_dataset(stream, split, guard)

    if hasattr(config, "batch_size"):
        config.batch_size = _BATCH_ROWS
    if getattr(config, "encoding", "") in (None, UTF8):
        with guard():
            encoding = encoding or _encoding_of_files(builder, urls)
        if encoding != UTF8:
            config.encoding = encoding
            notes.append(
                f"{name} is not UTF-8: it is read as {encoding}. If its text looks wrong, save it "
                "as UTF-8: iconv -f ENCODING -t UTF-8"
            )
    is_csv = hasattr(config, "sep")
    if is_csv:
        _keep_texts(config)
        lines = _start_of(builder, urls[0], guard)
        form = form_of_table(lines, config.sep)
        for url in urls[1:] if form.above else ():
            if form_of_table(_start_of(builder, url, guard), config.sep).above != form.above:
                first, other = (PurePosixPath(each).name for each in (urls[0], url))
                raise DatasetError(
                    f"{first} has {form.above} lines above its first row, and {other} has not",
                    hint="remove these lines, or name one file",
                )
        notes += _fit(config, form, name)
        lines = lines[form.above :]
        if config.sep == _TAB and _has_plain_quotes(builder, urls[0], lines, guard):
            config.quoting = csv.QUOTE_NONE
        with guard(), unpacked(urls[0], builder.token, start=True) as file:
            marks = {"delimiter": config.sep, "quotechar": config.quotechar}
            marks["quoting"] = config.quoting
            count = columns_in(file, config.encoding or UTF8, form.above, **marks)
            _check_number(name, count)
    raw = read()
    if ours and kind == "json":
        notes += _on_other_columns(builder, urls, guard)
    if is_csv and _INDEX in raw.columns:
        raise DatasetError(
            f"{name} has rows with more fields than its first line",
            hint=QUOTE_TEXTS,
        )
    if is_csv and lacks_header(raw.columns, raw.sample):
        config.header, config.names = None, [f"column_{i + 1}" for i in range(len(raw.columns))]
        notes.append(f"{name} has no header line: its columns are column_1, column_2, …")
        raw = read()
    return replace(raw, notes=tuple(notes), total=_row_total(builder, split))


def _start_of(builder: Any, url: str, guard: Guard) -> list[str]:
    """Return the first lines of a CSV file."""
    with guard(), unpacked(url, builder.token, start=True) as file:
        return lines_of(file.read(START), builder.config.encoding or UTF8)


def _fit(config: Any, form: TableForm, name: str) -> list[str]:
    """Make the CSV reader read a file of this form; return what to tell of it."""
    notes = list[str]()
    if config.sep == _TAB and form.mark != _TAB:
        notes.append(f"{name} has no tabs: its columns are separated with {form.mark}")
    config.sep = form.mark
    config.quotechar = form.quote if config.quotechar == _QUOTE else config.quotechar
    if config.features is not None:
        return notes
    if form.above:
        config.skiprows = form.above
        notes.append(f"{name} is read from line {form.above + 1} on: those above it are no rows")
    if form.decimals:
        notes.append(f"{name} has numbers with decimal commas: 4,5 is read as 4.5")
    if form.names:
        config.header, config.names = 0, list(form.names)
    config.converters = (
        dict.fromkeys(range(len(form.names)), str.strip)
        | dict.fromkeys(form.codes, str.strip)
        | dict.fromkeys(form.decimals, _with_point)
    )
    return notes


def _with_point(number: str) -> str:
    number = number.strip()
    return number.replace(",", ".") if DECIMAL.fullmatch(number) else number


def _leave_out_empty_files(urls: list[str]) -> None:
    """Remove the files on this disk without a byte, whose columns `datasets` asks for in vain."""
    urls[:] = [url for url in urls if "://" in url or Path(url).stat().st_size] or urls


def _as_table(builder: Any, part: str, urls: Sequence[str], guard: Guard) -> Any:
    """Return a builder that reads text files as tables, if the lines of the first one are rows."""
    with guard(), unpacked(urls[0], builder.token, start=True) as file:
        separator = separator_between(lines_of(file.read(START)))
    if not separator:
        return None
    files = [url if "://" in url else glob.escape(url) for url in urls]
    quoting = csv.QUOTE_MINIMAL if separator == _TAB else csv.QUOTE_NONE
    form = {"sep": separator, "quoting": quoting, "token": builder.token, "cache_dir": NO_CACHE}
    with guard():
        return prepared_datasets().load_dataset_builder("csv", data_files={part: files}, **form)


def _has_plain_quotes(builder: Any, url: str, lines: Sequence[str], guard: Guard) -> bool:
    """Whether quotation marks in a table belong to its texts; of one on the Hub, by its start."""
    if "://" in url or not has_plain_quotes(lines):
        return has_plain_quotes(lines)
    encoding = builder.config.encoding or UTF8
    with guard(), unpacked(url) as file, as_text(file, encoding) as text:
        return has_plain_quotes(text)


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


def _on_other_columns(builder: Any, urls: Sequence[str], guard: Guard) -> Iterator[str]:
    """Tell of files on this disk whose first rows have no column of the first file's."""
    if len(urls) == 1 or any("://" in url for url in urls):
        return
    columns = {url: set(next(_rows_in_files(builder, [url], {}, guard), {})) for url in urls}
    known = columns[urls[0]]
    if other := next((url for url in urls if columns[url] and not columns[url] & known), None):
        first, name = (PurePosixPath(url).name for url in (urls[0], other))
        yield f"{first} and {name} have no column in common: to read one of them, name its file."


def _of_object(name: str, lists: dict[str, list[dict[str, Any]]], split: Splits) -> RawDataset:
    """Return a list of rows in a JSON file; if there are several, their keys are the splits."""
    split = pick_split(name, list(lists) if len(lists) > 1 else ["train"], split)
    key = split_name(split) if len(lists) > 1 else next(iter(lists))
    rows = lists[key]
    read = f"the rows below {key} are read" if key else f"it is read as {len(rows)} rows"
    found = rows_of(partial(iter, rows), split)
    return replace(found, notes=(f"{name} is one object: {read}",))


def kind_of(builder: Any) -> str:
    """Return the format that a `datasets.DatasetBuilder` reads, such as ``json``."""
    return str(builder.__module__).rpartition(".")[2]


def unpacked(
    path: str, token: Token = None, *, start: bool = False
) -> AbstractContextManager[IO[bytes]]:
    """Open a local file, or one on the Hub, decompressed if its name states a compression.

    Args:
        path: or URL.
        token: for the Hub.
        start: whether only the start will be read; else 5 MiB more than is read are downloaded.
    """
    import fsspec

    options = {"hf": {"token": token}} if "://" in path else {}
    opened: Any = fsspec.open(path, "rb", compression="infer", **options)
    if start and options:
        more = {"block_size": _AHEAD, "compression": opened.compression}
        opened = opened.fs.open(opened.path, "rb", **more)
    file: AbstractContextManager[IO[bytes]] = opened
    return file


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


def _keep_texts(config: Any) -> None:
    """Make the CSV reader keep texts such as NA and None, unless the repo states its columns."""
    if config.keep_default_na and config.features is None:
        config.keep_default_na, config.na_values = False, [""]


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
        _check_number(f"the split {split}", len(names))
        sample.append(row)
    if not sample:
        raise EmptyDatasetError(
            f"the split {split} has no rows", hint=Option("split", change="name another")
        )
    return RawDataset(list(names), labels or {}, config, split, chosen, read, tuple(sample))


def _check_number(name: str, columns: int) -> None:
    """Raise if a dataset has more than `MAX_COLUMNS` columns, before its rows are gone through."""
    if columns > MAX_COLUMNS:
        raise DatasetTooLargeError(
            f"{name} has more than {MAX_COLUMNS:,} columns",
            hint="write its rows with those that matter, such as input and output",
        )


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
