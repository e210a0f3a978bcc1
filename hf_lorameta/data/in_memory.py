"""Read a dataset that a Python program has in memory."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hf_lorameta.errors import DatasetError, EmptyDatasetError
from hf_lorameta.hub.dataset_repo import SAMPLE_ROWS, RawDataset, raw_dataset
from hf_lorameta.hub.errors import reading
from hf_lorameta.hub.split_names import pick_split

_NAME = "the dataset"


def rows_in_memory(rows: Any, split: str | None = None) -> RawDataset:
    """Return one split of a dataset that is in memory.

    Args:
        rows: a list of dictionaries, a `pandas.DataFrame`, or a dataset of the library `datasets`.
        split: of a `datasets.DatasetDict`; None is train, or the only one.

    Raises:
        DatasetError: another type of rows, no such split, or it cannot be read.
        EmptyDatasetError: no rows.

    Example:
        >>> raw = rows_in_memory([{"prompt": "1+1=", "completion": 2}])
        >>> raw.columns, list(raw.rows())
        (['prompt', 'completion'], [{'prompt': '1+1=', 'completion': 2}])
    """
    if isinstance(rows, Mapping) and rows and all(hasattr(s, "features") for s in rows.values()):
        split = pick_split(_NAME, [str(name) for name in rows], split)
        rows = rows[split]
    name = split or str(getattr(rows, "split", None) or "train")
    if hasattr(rows, "features"):  # of the library `datasets`
        return raw_dataset(rows, name, partial(reading, _NAME))
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # of pandas
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise DatasetError(
            f"a dataset of type {type(rows).__name__} cannot be read",
            hint="give a Hub id, a file, a list of dictionaries, a DataFrame or a datasets.Dataset",
        )
    if not rows:
        raise EmptyDatasetError(f"{_NAME} has no rows")

    def read() -> Iterator[dict[str, Any]]:
        return (dict(row) for row in rows)

    names = dict.fromkeys(str(column) for row in rows for column in row)
    sample = tuple(dict(row) for row in rows[:SAMPLE_ROWS])
    return RawDataset(
        list(names), {}, None, name, read, sample, total=lambda: len(rows), named_split=bool(split)
    )
