"""Lists of objects in the rows of a dataset, whose items are rows themselves.

A path such as ``questions[].answer`` leads to a field of the items of a list. Columns with such
paths read a row for each item, beside the other columns of the row that holds the list.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from hf_lorameta.data.columns import names as known
from hf_lorameta.data.columns.cells import from_json, texts_in
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.layouts import find_columns
from hf_lorameta.data.columns.table_view import TableView, normalized
from hf_lorameta.data.sources.raw_dataset import SAMPLE_ROWS, RawDataset
from hf_lorameta.errors import DatasetError

EACH = "[]"
"""Behind the name of a column, its items."""
_SPAN = {"start", "end", "offset", "offsets", "start_offset", "bbox"}
_SPEAKERS = {"role", "from", "speaker", "name", "sender", "author"}
_FIELDS, _LONG = 60, 40


def unfolded(raw: RawDataset, columns: Columns) -> RawDataset:
    """Return a dataset with a row for each item of the list that columns lead to, if they do.

    Example:
        >>> from hf_lorameta.data.sources.memory import rows_in_memory
        >>> raw = rows_in_memory([{"id": 1, "pairs": [{"a": "x"}, {"a": "y"}]}], None)
        >>> list(unfolded(raw, Columns(output="pairs[].a")).rows())
        [{'id': 1, 'pairs[]': {'a': 'x'}}, {'id': 1, 'pairs[]': {'a': 'y'}}]
    """
    named = (path.partition(EACH)[0] for path in columns.names() if EACH in path)
    name = next((name for name in named if name in raw.columns), "")
    return _unfolded(raw, name) if name and f"{name}{EACH}" not in raw.columns else raw


def find_unfolded(raw: RawDataset) -> Columns | None:
    """Return columns that read the items of a list as rows, if what they hold is clear.

    Raises:
        ColumnsError: it is not, but the items hold texts; its `columns` is a proposal.
    """
    asked: DatasetError | None = None
    for name in filter(partial(_holds_rows, raw.sample), raw.columns):
        table = _table_of_items(_unfolded(raw, name), f"{name}{EACH}")
        try:
            found = find_columns(table)
        except DatasetError as error:
            proposed: Columns | None = error.columns
            asked = asked or (error if proposed and _is_inside(proposed) else None)
        else:
            if _is_inside(found) and _is_filled(table, found.named("output")):
                return _with_texts_above(found, table)
    if asked:
        raise asked
    return None


def _is_inside(columns: Columns) -> bool:
    """Whether columns read inputs and outputs in the items of a list."""
    roles = (columns.named("input"), columns.named("output"))
    return all(any(EACH in path for path in paths) for paths in roles)


def _is_filled(table: TableView, outputs: Sequence[str]) -> bool:
    """Whether items have outputs, in most rows, that differ."""
    count = max(len(table.values(path)) for path in outputs)
    return 5 * count > 4 * len(table.sample) and not all(map(table.is_same, outputs))


def _with_texts_above(columns: Columns, table: TableView) -> Columns:
    """Return columns that read also the long texts of the row that holds the items."""
    long = [
        name for name in table.usable
        if EACH not in name and name not in columns.names()
        and table.has_text(name) and table.mean_length(name) > _LONG
    ]  # fmt: skip
    return (
        columns.model_copy(update={"input": (*long, *columns.named("input"))}) if long else columns
    )


def reads_pairs(raw: RawDataset, columns: Columns | None) -> bool:
    """Whether columns read inputs and outputs, of which none is in a list whose items are rows."""
    if not (columns and columns.input and columns.output):
        return False
    return not holds_rows(raw, [path for path in columns.names() if "." in path])


def holds_rows(raw: RawDataset, paths: Iterable[str]) -> bool:
    """Whether a path leads to a list whose items are rows."""
    held = {path.partition(".")[0] for path in paths}
    return any(_holds_rows(raw.sample, name) for name in held if name in raw.columns)


def states_outputs(raw: RawDataset) -> bool:
    """Whether items of a list have an output by a usual name, and the rows themselves have none."""
    if set(map(normalized, raw.columns)) & {*known.OUTPUTS}:
        return False
    lists = filter(partial(_holds_rows, raw.sample), raw.columns)
    keys = {normalized(key) for name in lists for key in _keys(raw.sample, name)}
    return not keys.isdisjoint(("output", "answer", "response", "completion", "target"))


def _items(row: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = from_json(row.get(name), "[{")
    return value if isinstance(value, (list, tuple)) else ()


def _keys(sample: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(key for row in sample for item in _items(row, name) for key in item))


def _holds_rows(sample: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column holds lists of objects with texts, that are no turns and no spans."""
    items = [item for row in sample for item in _items(row, name)]
    if not items or not all(isinstance(item, Mapping) for item in items):
        return False
    keys = {str(key).lower() for item in items for key in item}
    texts = sum(any(texts_in(item)) for item in items)
    return keys.isdisjoint(_SPAN | _SPEAKERS) and len(keys) > 1 and 2 * texts > len(items)


def _unfolded(raw: RawDataset, name: str) -> RawDataset:
    def each(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            above = {key: value for key, value in row.items() if key != name}
            for item in _items(row, name):
                yield {**above, f"{name}{EACH}": item}

    sampled = raw.sampled
    return replace(
        raw,
        columns=[*(column for column in raw.columns if column != name), f"{name}{EACH}"],
        rows=lambda: each(raw.rows()),
        whole=lambda: each(raw.whole()),
        sample=tuple(islice(each(raw.sample), SAMPLE_ROWS)),
        sampled=sampled and (lambda: each(sampled())),
        total=None,
    )


def _table_of_items(raw: RawDataset, name: str) -> TableView:
    """Return the columns of unfolded rows, and by their paths the fields of their items."""
    keys = dict.fromkeys(
        key for row in raw.sample if isinstance(row[name], Mapping) for key in row[name]
    )
    others = [column for column in raw.columns if column != name]
    paths = {f"{name}.{key}": key for key in islice(keys, _FIELDS)}
    rows = [
        {**{column: row.get(column) for column in others},
         **{path: row[name].get(key) for path, key in paths.items()}}
        for row in raw.sample if isinstance(row[name], Mapping)
    ]  # fmt: skip
    labels = {column: raw.labels[column] for column in others if column in raw.labels}
    return TableView([*others, *paths], labels, rows)
