"""Rows of one split as its files have them, before the roles of its columns are known."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

from hf_lorameta.data.sources.split_names import slice_bounds
from hf_lorameta.errors import EmptyDatasetError, Option
from hf_lorameta.hub.repo import PinnedRepo

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
