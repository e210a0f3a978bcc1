"""Read a dataset that a Python program has in memory."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hf_lorameta.data.columns import Columns
from hf_lorameta.data.dataset import Dataset, OpenedRows, as_dataset
from hf_lorameta.errors import DatasetError, EmptyDatasetError
from hf_lorameta.hub.dataset_repo import SAMPLE_ROWS, RawDataset, pick_split, raw_dataset
from hf_lorameta.hub.errors import reading
from hf_lorameta.hub.reading_limits import DEFAULT_LIMITS, ReadingLimits

_NAME = "the dataset"


def from_memory(
    rows: Any,
    *,
    split: str | None = None,
    columns: Columns | None = None,
    instruction: str | None = None,
    template: str | None = None,
    limits: ReadingLimits = DEFAULT_LIMITS,
) -> Dataset:
    """Return a dataset that is in memory; it counts as private.

    Args:
        rows: a list of dictionaries, a `pandas.DataFrame`, or a dataset of the library `datasets`.
        split: of a `datasets.DatasetDict`; None is train, or the only one.
        columns: None finds them, see `hf_lorameta.data.layouts.find_columns`.
        instruction: put before every input, where the rows have none.
        template: text with ``{instruction}`` and ``{input}``.
        limits: how much is read.

    Raises:
        DatasetError: another type of rows, no such split, or it cannot be read.
        ColumnsError: the columns fit no layout, or several.
        EmptyDatasetError: no rows.

    Example:
        >>> dataset = from_memory([{"prompt": "1+1=", "completion": 2}])
        >>> dataset.head(1)
        [('1+1=', '2')]
    """
    opened = OpenedRows(None, _raw(rows, split), "in memory")
    return as_dataset(opened, columns, instruction, template, limits)


def _raw(rows: Any, split: str | None) -> RawDataset:
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
    return RawDataset(list(names), {}, None, name, read, sample)
