"""Read dataset repos with `datasets`: configurations, splits and streams of rows.

`datasets` retries by itself. Its requests go through `huggingface_hub`, which retries five times
within 23 s; the further retries that `datasets` adds around those are switched off.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import huggingface_hub as hfh

from hf_lorameta.errors import DatasetError, EmptyDatasetError, Option, UsageError
from hf_lorameta.hub.data_files import CARD_FILES, check_builder, check_card
from hf_lorameta.hub.errors import reading
from hf_lorameta.hub.limited_stream import limit_rows, open_file, row_total, text_streams
from hf_lorameta.hub.reading_limits import DEFAULT_LIMITS, ReadingLimits
from hf_lorameta.hub.repo import PinnedRepo, Token
from hf_lorameta.hub.retry import Retries
from hf_lorameta.hub.split_names import pick_split, slice_bounds, split_name
from hf_lorameta.hub.text_formats import (
    SEPARATORS,
    UTF8,
    encoding_note,
    encoding_of,
    header_note,
    lacks_header,
    name_columns,
)

SAMPLE_ROWS = 32
"""Rows that are read to learn what the columns hold."""
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
    sample: tuple[dict[str, Any], ...] = ()  # the first `SAMPLE_ROWS`
    whole: Callable[[], Iterator[dict[str, Any]]] | None = None  # of a slice: all of its split
    notes: tuple[str, ...] = ()  # what to tell the user: another separator or encoding than usual
    total: Callable[[], int | None] = lambda: None  # number of rows, see `row_total`
    named_split: bool = True  # False: `split` is train since nobody named one
    repo: PinnedRepo | None = None  # of the Hub; None for files and rows in memory
    revision: str = "in memory"  # commit hash, or ``sha256:…`` of files


def list_choices(
    repo: PinnedRepo, config: str | None = None, token: Token = None, copy: Path | None = None
) -> tuple[list[str], list[str]]:
    """List the configurations of a dataset repo, and the splits of one.

    Without `config`, the splits are those of the default configuration; if there is none, no
    splits are listed. `copy` is a folder to read instead of the repo.
    """
    import datasets

    source, options = _source(repo, token, copy)
    with _opening(repo.repo_id, copy):
        _check_card(repo, token, copy)
        configs = Retries().when_allowed(
            repo.repo_id, lambda: datasets.get_dataset_config_names(source, **options)
        )
        chosen = config or ("default" if "default" in configs else configs[0])
        if config is None and chosen != "default" and len(configs) > 1:
            return list(configs), []
        splits = datasets.get_dataset_split_names(source, chosen, **options)
    return list(configs), list(splits)


def open_split(
    repo: PinnedRepo,
    config: str | None = None,
    split: str | None = None,
    token: Token = None,
    limits: ReadingLimits = DEFAULT_LIMITS,
    copy: Path | None = None,
    files: dict[str, list[str]] | None = None,
) -> RawDataset:
    """Open one split of a dataset repo as a stream.

    Without `config`, it is the only configuration or the one named default; for `split`, see
    `pick_split`. A CSV file with another separator than a comma, in another encoding than
    UTF-8, or without a header is opened a second time. `copy` is a folder to read instead of the
    repo, and `files` are those of each split in it that are read.
    """
    import datasets

    datasets.disable_progress_bars()
    guard = partial(_reading, repo.repo_id)
    source, options = _source(repo, token, copy)
    options |= {"data_files": files} if files else {}
    with _opening(repo.repo_id, copy):
        _check_card(repo, token, copy)
        builder = Retries().when_allowed(
            repo.repo_id, lambda: datasets.load_dataset_builder(source, config, **options)
        )
        check_builder(repo, builder, copy)
        _keep_texts(builder.config)
        limit_rows(builder, repo.repo_id, limits)
        streams = text_streams(builder)
    split = pick_split(repo.repo_id, list(streams), split)
    raw, notes = _read_as_written(repo.repo_id, builder, streams, split, guard)
    return replace(raw, notes=notes, total=partial(row_total, builder, split))


def _read_as_written(
    name: str, builder: Any, streams: Any, split: str, guard: Guard
) -> tuple[RawDataset, tuple[str, ...]]:
    """Read a split; again if its encoding, separator or missing header turns out to be another.

    Returns:
        The rows, and what to tell the user.
    """

    def read(streams: Any) -> RawDataset:
        return raw_dataset(streams[split_name(split)], split, guard)

    notes: tuple[str, ...] = ()
    config = builder.config
    try:
        raw = read(streams)
    except DatasetError as error:
        if UnicodeDecodeError.__name__ not in str(error):
            raise
        config.encoding = _encoding_of_files(builder, split_name(split))
        notes = (encoding_note(name, config.encoding),)
        raw = read(text_streams(builder))
    if not hasattr(config, "sep"):  # not CSV
        return raw, notes
    if len(raw.columns) == 1 and any(mark in raw.columns[0] for mark in SEPARATORS):
        config.sep = max(SEPARATORS, key=raw.columns[0].count)
        raw = read(text_streams(builder))
    if lacks_header(raw.columns, raw.sample):
        name_columns(builder, len(raw.columns))
        notes += (header_note(name, len(raw.columns)),)
        raw = read(text_streams(builder))
    return raw, notes


def _encoding_of_files(builder: Any, split: str) -> str:
    """Return the encoding of the first file of a split that is not UTF-8."""
    from fsspec.compression import compr
    from fsspec.core import get_compression

    for url in map(str, builder.config.data_files[split]):
        compression = get_compression(url, "infer")
        with open_file(builder, url) as raw:
            file = compr[compression](raw, mode="rb") if compression else raw
            if (encoding := encoding_of(file)) != UTF8:
                return encoding
    return UTF8


def _keep_texts(config: Any) -> None:
    """Make the CSV reader keep texts such as NA and None, unless the repo states its columns."""
    if getattr(config, "keep_default_na", False) and config.features is None:
        config.keep_default_na, config.na_values = False, [""]


def _source(repo: PinnedRepo, token: Token, copy: Path | None) -> tuple[str, dict[str, Any]]:
    """Return what `datasets` opens: a repo at its commit, or a folder."""
    if copy is not None:
        return str(copy), {}
    return repo.repo_id, {"revision": repo.sha, "token": token}


def raw_dataset(stream: Any, split: str, guard: Guard) -> RawDataset:
    """Read the first rows of a `datasets.IterableDataset` to learn its columns."""
    whole, (start, stop) = stream, slice_bounds(split)
    stream = stream.skip(start) if start else stream
    stream = stream if stop is None else stream.take(stop - start)
    with guard():
        sample = tuple(islice(stream, SAMPLE_ROWS))
    if not sample:
        raise EmptyDatasetError(
            f"the split {split} has no rows", hint=Option("split", change="name another")
        )
    labels = {
        name: list(map(str, classes.names))
        for name, feature in (stream.features or {}).items()
        if (classes := _classes(feature)) is not None
    }
    config = getattr(getattr(stream, "info", None), "config_name", None)

    def read(stream: Any) -> Iterator[dict[str, Any]]:
        with guard():
            yield from stream

    return RawDataset(
        list(sample[0]), labels, config, split, partial(read, stream), sample, partial(read, whole)
    )


def _classes(feature: Any) -> Any:
    """Return the class labels of a column, or of the items of its lists; None if it has none."""
    feature = getattr(feature, "feature", feature)
    return feature if hasattr(feature, "names") and hasattr(feature, "int2str") else None


def _check_card(repo: PinnedRepo, token: Token, copy: Path | None) -> None:
    """Check the data files that a repo's card names, before `datasets` looks for them."""
    for name in CARD_FILES:
        if name not in repo.files:
            continue
        if copy:
            path = copy / name
        else:
            path = Path(
                hfh.hf_hub_download(
                    repo.repo_id, name, repo_type="dataset", revision=repo.sha, token=token
                )
            )
        if path.exists():  # the cache may have one of them only
            check_card(repo.repo_id, path)


@contextmanager
def _opening(repo_id: str, copy: Path | None = None) -> Iterator[None]:
    if copy is None and Path(repo_id).exists():
        raise UsageError(
            f"a local folder is named {repo_id} and would be read instead of the Hub repo",
            hint=f"run the command in another folder, or name the local one: ./{repo_id}",
        )
    with _single_retry_layer(), reading(repo_id, opening=True):
        yield


@contextmanager
def _reading(repo_id: str) -> Iterator[None]:
    with _single_retry_layer(), reading(repo_id):
        yield


# --- retries of datasets ------------------------------------------------------------------------

_SINGLE_ATTEMPT = {
    "STREAMING_OPEN_MAX_RETRIES": 1,  # the number of attempts
    "STREAMING_OPEN_RETRY_INTERVAL": 0,  # slept after the last attempt, too
    "STREAMING_READ_MAX_RETRIES": 1,
    "STREAMING_READ_RETRY_INTERVAL": 0,
    "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 0,
    "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL": 0,
}
_config_lock = threading.Lock()
_config_users = 0
_saved_config: dict[str, int] = {}


@contextmanager
def _single_retry_layer() -> Iterator[None]:
    """Switch off the retries of `datasets` (up to 20 min per read) until the last user leaves."""
    import datasets

    global _config_users
    with _config_lock:
        if _config_users == 0:
            _saved_config.update({name: getattr(datasets.config, name) for name in _SINGLE_ATTEMPT})
            for name, value in _SINGLE_ATTEMPT.items():
                setattr(datasets.config, name, value)
        _config_users += 1
    try:
        yield
    finally:
        with _config_lock:
            _config_users -= 1
            if _config_users == 0:
                for name, value in _saved_config.items():
                    setattr(datasets.config, name, value)
