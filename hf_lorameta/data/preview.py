"""The first rows of a dataset as its files have them, before columns are chosen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.dataset import as_dataset, open_rows
from hf_lorameta.data.reading import Reading
from hf_lorameta.errors import DatasetError
from hf_lorameta.hub.client import Hub

ROWS = 3
CELL_CHARACTERS = 160
"""Characters of a value that are shown; of a longer one, half from its start and half from its end.
"""


@dataclass(frozen=True)
class Preview:
    """Columns and first rows of one split; small, however long the rows are.

    Attributes:
        config: configuration; None for a local file.
        split: name of the split.
        names: all columns.
        rows: the first `ROWS` rows, every value as a text of about `CELL_CHARACTERS`.
        columns: how rows would be read, or a proposal if that is not clear; None without one.
        problem: why it is not clear, without a row; None if it is clear.
    """

    config: str | None
    split: str
    names: list[str]
    rows: Sequence[Mapping[str, str]]
    columns: Columns | None
    problem: DatasetError | None


def preview(
    name: str | Path, hub: Hub, *, config: str | None = None, split: str | None = None
) -> Preview:
    """Read the first rows of a dataset and look for its input and output columns.

    Args:
        name: Hub id or local file, see `hf_lorameta.open_dataset`.
        hub: connection to the Hub.
        config: configuration of a Hub dataset.
        split: None is train, or the only one.

    Raises:
        DatasetError: no such file, config or split, or it cannot be read.
        EmptyDatasetError: no rows.
        HubError: the repo is missing, private, gated or needs a script, or the Hub failed.

    Example:
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> found = preview(TRAIN_FILE, Hub())
        >>> found.names, found.columns.output, len(found.rows)
        (['input', 'output'], 'output', 3)
    """
    raw = open_rows(name, hub, Reading(config=config, split=split))
    columns: Columns | None
    problem: DatasetError | None = None
    try:
        columns = as_dataset(raw).columns
    except DatasetError as error:
        error.row, error.rows = None, ()
        columns, problem = error.columns, error
    rows = [{name: _short(row[name]) for name in row} for row in raw.sample[:ROWS]]
    return Preview(raw.config, raw.split, raw.columns, rows, columns, problem)


def _short(value: object) -> str:
    """Return a value on one line; of a long text, both ends, since texts may share one of them."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    if len(text) <= CELL_CHARACTERS:
        return " ".join(text.split())
    half = CELL_CHARACTERS // 2
    start, end = (" ".join(part.split()) for part in (text[:half], text[-half:]))
    return f"{start} … {end}"
