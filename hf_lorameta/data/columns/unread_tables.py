"""Tables that are not read as they are: what is asked about them, or how to convert their rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_lorameta.data.columns import names as known
from hf_lorameta.data.columns.cells import from_json
from hf_lorameta.data.columns.columns import Columns, all_of
from hf_lorameta.data.columns.judge import objection
from hf_lorameta.data.columns.table_view import TableView, normalized
from hf_lorameta.errors import ColumnsError, DatasetError, Option

_TO_JSON = ".to_json('rows.jsonl', orient='records', lines=True), and name rows.jsonl"
_SHOWN_ROWS = 3
"""Rows that are shown where no columns are proposed."""


def unclear(
    table: TableView,
    problem: str,
    *proposals: Columns | None,
    advice: str = "",
    kind: type[DatasetError] = ColumnsError,
) -> DatasetError:
    """Return an error that proposes columns; its `columns` are the first proposal."""
    good = [columns for columns in filter(None, proposals) if not objection(table, columns)]
    proposed = list(dict.fromkeys(map(str, good)))
    options = [Option("columns", columns) for columns in proposed]
    shown: Sequence[Mapping[str, Any]] = ()
    if not proposed and any(table.kind(name) == "text" for name in table.usable):
        options = [Option("columns", "input=COLUMN,output=COLUMN")]
        shown = table.sample[:_SHOWN_ROWS]
    elif not proposed and not advice:
        advice = "choose a dataset with texts, or name fields of columns: output=COLUMN.FIELD"
    also = f"; also possible: {' or '.join(proposed[1:])}" if proposed[1:] else ""
    error = kind(f"{problem}{also}; all columns: {all_of(table.names)}", hint=[*options, advice])
    error.columns, error.rows = next(iter(good), None), shown
    return error


def unreadable(table: TableView, problem: str, advice: str) -> ColumnsError:
    """Return an error for rows that no columns read, with how to convert them."""
    return ColumnsError(f"{problem}; all columns: {all_of(table.names)}", hint=advice)


def spans_error(table: TableView, output: str) -> DatasetError | None:
    """Return the error for a text beside a list of its spans: start, end and label of each.

    There is none if another `output` is likely.
    """
    texts = [n for n in table.usable if table.kind(n) == "text"]
    for name in table.names if texts and (not output or table.is_same(output)) else [output]:
        lists = (from_json(value, "[") for value in table.values(name))
        first = next((value for value in lists if value), None)
        if texts and isinstance(first, list) and all(map(_is_span, first)):
            text = max(texts, key=table.mean_length)
            each, parts = "start, end, label", ("start", "end", "label")
            if isinstance(first[0], Mapping):
                each, parts = "span", ("span['start']", "span['end']", "span['label']")
            span = f"row[{text!r}][{parts[0]}:{parts[1]}] + ': ' + {parts[2]}"
            listed = f"'; '.join({span} for {each} in row[{name!r}])"
            problem = f"each row has spans of {text} in {name}"
            return unreadable(table, problem, f"make one text of them first, such as {listed}")
    return None


def _is_span(value: object) -> bool:
    if isinstance(value, Mapping):
        value = [value.get(key) for key in ("start", "end", "label")]
    return isinstance(value, list) and list(map(type, value)) == [int, int, str]


def tagged_words(table: TableView) -> None:
    """Tables of tagged words, whose rows have to become sentences first, as pandas can do."""
    named = (table.named(keys) for keys in (known.SENTENCES, known.WORDS, known.WORD_TAGS))
    number, word, tag = (next(iter(names), "") for names in named)
    single = number and tag and table.holds_single_words(word)
    single = single and 2 * len(set(map(str, table.values(number)))) <= len(table.sample)
    if single and not table.is_within(word, [number]):
        lists = f"tokens=({word!r}, list), tags=({tag!r}, list)"
        sentences = f"rows.ffill().groupby({number!r}, sort=False).agg({lists})"
        problem = f"each row is a single word; in pandas, these are its sentences: {sentences}"
        raise unclear(table, problem, Columns(input=word, output=tag))


def replies(table: TableView) -> None:
    """Tables of messages that name the message that they reply to, of which pandas makes pairs."""
    texts = [n for n in table.usable if table.kind(n) == "text" and table.holds_words(n)]
    for before in filter(lambda name: known.BEFORE.fullmatch(normalized(name)), table.names):
        own = [name for name in table.names if _refers(table, before, name)]
        if own and texts:
            text = max(texts, key=table.mean_length)
            pairs = (
                f"rows.merge(rows, left_on={before!r}, right_on={own[0]!r}, suffixes=('', '_0'))"
                f"[[{text + '_0'!r}, {text!r}]].set_axis(['input', 'output'], axis=1)"
            )
            problem = f"each row is a message, and {before} the one that it replies to"
            advice = f"make rows of a message and its reply in pandas: {pairs}{_TO_JSON}"
            raise unreadable(table, problem, advice)


def _refers(table: TableView, before: str, name: str) -> bool:
    """Whether a column holds ids of another column, of other rows."""
    pairs = [[str(row.get(n)).removesuffix(".0") for n in (before, name)] for row in table.sample]
    ids = [own for _, own in pairs]
    known_ids = set(ids) - {"None", "nan", ""}
    others = any(other in known_ids for other, _ in pairs)
    return others and len(set(ids)) == len(ids) and not any(a == b for a, b in pairs)


def lists_of_questions(table: TableView) -> None:
    """Tables whose rows are lists of questions and answers, of which pandas can make rows."""
    for name in table.named(("questions",)):
        counts = {n: [_length(row.get(n)) for row in table.sample] for n in table.names}
        lists = [n for n in table.names if table.kind(n) == "list" and counts[n] == counts[name]]
        if len(lists) > 1:
            advice = f"make a row of each in pandas: rows.explode({lists!r}){_TO_JSON}"
            raise unreadable(table, f"each row has lists of {', '.join(lists)}", advice)


def _length(value: object) -> int:
    return len(value) if isinstance(value, (list, tuple)) else -1
