"""Read a dataset that a Python program has in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hf_lorameta.data.sources.raw_dataset import RawDataset, raw_dataset, rows_of
from hf_lorameta.data.sources.reading_errors import read_filled, reading
from hf_lorameta.data.sources.split_names import Splits, pick_split, slice_bounds, split_name
from hf_lorameta.errors import DatasetError

_NAME = "the dataset"


def rows_in_memory(rows: Any, split: Splits = None) -> RawDataset:
    """Return one split of a dataset that is in memory.

    Args:
        rows: a list of dictionaries, a `pandas.DataFrame`, or a dataset of the library `datasets`.
        split: of a `datasets.DatasetDict`, None is train, or the only one; rows that are in no
            split count as train. Or a slice, such as ``train[:1000]``.

    Raises:
        DatasetError: another type of rows, no such split, or it cannot be read.
        EmptyDatasetError: no rows.

    Example:
        >>> raw = rows_in_memory([{"prompt": "1+1=", "completion": 2}])
        >>> raw.columns, list(raw.rows())
        (['prompt', 'completion'], [{'prompt': '1+1=', 'completion': 2}])
    """
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # of pandas
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    if isinstance(rows, Mapping) and rows and all(hasattr(s, "features") for s in rows.values()):
        names = [str(name) for name in rows]
        return read_filled(
            _NAME,
            pick_split(_NAME, names, split),
            names,
            lambda part: _one_split(rows[split_name(part)], part, part),
        )
    own = str(getattr(rows, "split", None) or "train")
    picked = pick_split(_NAME, [own.partition("[")[0]], split) if split else ""
    return read_filled(_NAME, picked or own, (), lambda _: _one_split(rows, picked, own))


def _one_split(rows: Any, picked: str, own: str) -> RawDataset:
    """Return the rows that are in memory, or the slice of them that was `picked`."""
    if hasattr(rows, "features"):  # of the library `datasets`; `own` may be a slice that it holds
        rows = rows.with_format(None)  # plain values, not arrays or tensors
        if picked and hasattr(rows, "to_iterable_dataset") and len(rows):
            rows = rows.to_iterable_dataset()  # its slices may end past the last row
        raw = raw_dataset(rows, picked or "train", partial(reading, _NAME))
        return replace(raw, split=picked or own)
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise DatasetError(
            f"a dataset of type {type(rows).__name__} cannot be read",
            code="dataset.unknown-type",
            hint="give a Hub id, a file, a list of dictionaries, a DataFrame or a datasets.Dataset",
        )
    return _listed_rows(rows, picked or own)


def _listed_rows(rows: Sequence[Mapping[Any, Any]], split: str) -> RawDataset:
    """Return the rows of a split, or of a slice of one, that holds a list of rows."""

    def read() -> Iterator[dict[str, Any]]:
        return ({str(name): _plain(value) for name, value in row.items()} for row in rows)

    chosen = rows[slice(*slice_bounds(split))]
    names = dict.fromkeys(str(column) for row in chosen for column in row)
    return replace(rows_of(read, split), columns=list(names), total=len(chosen))


def _plain(value: Any) -> Any:
    """Return a value with lists for arrays, as pandas reads lists from Parquet files.

    Example:
        >>> import numpy as np
        >>> _plain({"text": np.array(["a", "b"], dtype=object)})
        {'text': ['a', 'b']}
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
