"""Rows of JSON files: lines, lists, and objects with rows somewhere in them.

The reader of `datasets` is not used: its `pyarrow` crashes on a row that is ``null``, and it
requires later rows to have the columns of the first ones.
"""

import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import IO, Any

from hf_lorameta.data.sources.split_names import USUAL
from hf_lorameta.data.sources.text_formats import UTF8, as_text
from hf_lorameta.errors import DatasetError
from hf_lorameta.quoting import shell

Rows = list[dict[str, Any]]
_ESCAPED = "\\ud"
_ASKING = {"question", "query", "prompt", "instruction", "input", "context", "passage", "text"}
_INPUTS = _ASKING | {"sentence", "review", "comment", "message", "tweet", "source", "article"}
_OUTPUTS = {
    "label", "labels", "category", "class", "intent", "sentiment", "answer", "output", "completion",
    "response", "target", "summary",
}  # fmt: skip
_EXAMPLES = {"patterns", "examples", "questions", "queries", "prompts"}
_CHATS = {"messages", "conversation", "conversations", "dialog", "dialogue", "turns", "chat"}
_SHOWN = 4
"""Lists that an error names, at most."""
_SPEAKERS = ({"role", "content"}, {"from", "value"})


def json_rows(file: IO[bytes], name: str, encoding: str = UTF8) -> Iterator[dict[str, Any]]:
    r"""Yield the rows of a file: its lines, or the items of the list that it holds.

    A text becomes a row with the column ``text``, and a list one with ``column_1``, …, unless the
    first list holds names of columns.

    Raises:
        DatasetError: a line is not JSON, or an item is null or a number.

    Example:
        >>> import io
        >>> list(json_rows(io.BytesIO(b'{"a": 1}\n\n{"a": 2}'), "rows.jsonl"))
        [{'a': 1}, {'a': 2}]
        >>> list(json_rows(io.BytesIO(b'[["a", 1],\n ["b", 2]]'), "rows.json"))
        [{'column_1': 'a', 'column_2': 1}, {'column_1': 'b', 'column_2': 2}]
    """
    with as_text(file, encoding) as text:
        lines, value = _opened(text, name)
        if isinstance(value, dict):
            value = next(iter(_by_path(value, name).values()), [value] if value else [])
        values = lines or enumerate(value if isinstance(value, list) else [value], 1)
        first = next(values, None)
        names = first[1] if first and _is_header(first[1]) else []
        start = [first] if first and not names else []
        for number, each in chain(start, values):
            named = names and isinstance(each, list)
            row = dict(zip(names, each, strict=False)) if named else each
            yield _row(row, f"{name}: line {number}")


def _is_header(row: Any) -> bool:
    """Whether a list holds names of columns, of which one is that of inputs and one of outputs.

    Example:
        >>> _is_header(["text", "label"]), _is_header(["hi", "greet"]), _is_header(["text", 1])
        (True, False, False)
    """
    if not _are_all(str, row):
        return False
    names = {cell.strip().lower() for cell in row}
    return len(names) == len(row) and bool(names & _INPUTS) and bool(names & _OUTPUTS)


def _opened(
    text: IO[str], name: str, *, lists: bool = True
) -> tuple[Iterator[tuple[int, Any]] | None, Any]:
    """Return the values of a file's lines by their numbers; or None, and the one that it holds.

    Without `lists`, a file that begins with a list is not read, and both are None.
    """
    lines = ((number, line) for number, line in enumerate(text, 1) if not line.isspace())
    first, line = next(lines, (0, "[]"))
    if not lists and line.lstrip().startswith("["):
        return None, None
    try:
        value = _loads(line)
    except (ValueError, RecursionError):
        return None, _parsed(line + text.read(), name, first)
    second = next(lines, None)
    if second is None:
        return None, value
    rest = ((number, _parsed(line, name, number)) for number, line in chain([second], lines))
    return chain([(first, value)], rest), None


def _parsed(text: str, name: str, first: int) -> Any:
    """Return the value of a JSON text that starts at the line `first`."""
    try:
        return _loads(text.rstrip())  # else the end may be taken for one more line
    except (ValueError, RecursionError) as error:
        line = first - 1 + getattr(error, "lineno", 1)
        raise _malformed(name, line, comma=text.rstrip().endswith(",")) from None


def _loads(text: str) -> Any:
    """Return a JSON value, without lone halves of UTF-16 pairs, which cannot be encoded."""
    value = json.loads(text)
    if _ESCAPED in text.lower():
        whole = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        value = json.loads(whole)
    return value


def _malformed(name: str, line: int, *, comma: bool) -> DatasetError:
    without = shell("sed", "s/,[[:space:]]*$//", name)
    advice = (
        "correct that line: each row is an object on a line of its own, as jq -c writes it, "
        'such as {"input": "…", "output": "…"}'
    )
    if comma:
        new = "without-commas.jsonl"
        advice = f"remove the commas at the ends of lines: {without} > {new}, and name {new}"
    problem = f"{name} cannot be read: line {line} is not a JSON value in UTF-8"
    return DatasetError(problem, code="file.not-json", hint=advice)


def _row(value: Any, place: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list):
        return {f"column_{i}": cell for i, cell in enumerate(value, 1)}
    kind = "null" if value is None else "a number"
    raise DatasetError(
        f"{place} is {kind}, expected an object", code="rows.not-objects", hint="remove it"
    )


# --- files that are one object --------------------------------------------------------------------


def rows_by_path(file: IO[bytes], name: str, encoding: str = UTF8) -> dict[str, Rows]:
    """Return the lists of rows in a file that is one JSON object, by the keys that lead to them.

    The longest is the first.

    An object of splits may hold lists of lists.
    One that holds columns, or rows by their ids, has one list, whose path is empty. Columns
    are lists of the same length, or, as pandas writes them, values by the row's number. An object
    with a text of its own, or with turns, is a row, not one that holds rows. Where each row holds a
    list of questions or contexts, as in SQuAD's own files, or of examples of an intent, the items
    of those lists are the rows; turns of a chat are not.

    Example:
        >>> import io
        >>> def paths(text):
        ...     return rows_by_path(io.BytesIO(text.encode()), "rows.json")
        >>> paths('{"version": 1, "data": {"items": [{"text": "a"}, {"text": "b"}]}}')
        {'data.items': [{'text': 'a'}, {'text': 'b'}]}
        >>> paths('{"data": [{"title": "T", "qas": [{"question": "a"}, {"question": "b"}]}]}')
        {'data.qas': [{'title': 'T', 'question': 'a'}, {'title': 'T', 'question': 'b'}]}
        >>> paths('{"intents": [{"tag": "hi", "patterns": ["a", "b"]}]}')
        {'intents': [{'tag': 'hi', 'patterns': 'a'}, {'tag': 'hi', 'patterns': 'b'}]}
        >>> paths('{"q": ["a", "b"], "a": ["c", "d"]}')
        {'': [{'q': 'a', 'a': 'c'}, {'q': 'b', 'a': 'd'}]}
        >>> paths('{"q": {"0": "a", "1": "b"}, "a": {"0": "c", "1": "d"}}')
        {'': [{'q': 'a', 'a': 'c'}, {'q': 'b', 'a': 'd'}]}
        >>> paths('{"columns": ["q", "a"], "index": [0], "data": [["b", "c"]]}')
        {'data': [{'q': 'b', 'a': 'c'}]}
        >>> paths('{"x1": {"q": "a"}, "x2": {"q": "b"}}')
        {'': [{'q': 'a'}, {'q': 'b'}]}
        >>> paths('{"messages": [{"role": "user", "content": "a"}]}'), paths('{"a": []}\\n{}')
        ({}, {})
        >>> paths('{"text": "a", "spans": [{"start": 0}]}')
        {}
    """
    with as_text(file, encoding) as text:
        _, value = _opened(text, name, lists=False)
    return _by_path(value, name) if isinstance(value, dict) else {}


def _by_path(found: dict[str, Any], name: str) -> dict[str, Rows]:
    """Return the lists of rows in an object by their paths; the longest is the first.

    Raises:
        DatasetError: it holds lists of texts of several lengths, so no columns.
    """
    lists = dict(_unfolded(*named) for named in _lists(found, ()))
    lengths = {key: len(value) for key, value in found.items() if _are_all(str, value)}
    if not lists and len(lengths) == len(found) and len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} has {count:,}" for key, count in islice(lengths.items(), _SHOWN))
        raise DatasetError(
            f"{name} holds lists of several lengths, expected columns of the same: {listed}",
            code="columns.other-lengths",
            hint=[
                "give each column a value for each row",
                "if the keys are labels: rows = [{'text': text, 'label': label} for label, texts "
                f"in json.loads(pathlib.Path({name!r}).read_text()).items() for text in texts]; "
                "then hf_lorameta.plan(rows) in Python",
            ],
        )
    return dict(sorted(lists.items(), key=lambda item: -len(item[1])))


def _lists(found: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Rows]]:
    """Yield the lists of rows in an object: its own, or else those in the objects that it holds."""
    names, data = found.get("columns"), found.get("data")
    if isinstance(names, list) and _are_all(list, data):  # of pandas
        data = [dict(zip(map(str, names), row, strict=False)) for row in data or ()]
        found = {"data": data}
    lists = {key: value for key, value in found.items() if _are_all(dict, value)}
    has_text = any(isinstance(found.get(key), str) for key in _ASKING)
    if has_text or any(map(_are_turns, lists.values())):
        return  # a row itself
    lists = lists or _splits_of_lists(found)
    if lists:
        yield from ((".".join((*path, key)), rows) for key, rows in lists.items())
    elif len(rows := _transposed(found)) > 1:
        yield ".".join(path), rows
    else:
        for key, value in found.items():
            if isinstance(value, dict):
                yield from _lists(value, (*path, key))


def _splits_of_lists(found: dict[str, Any]) -> dict[str, Rows]:
    """Return the rows of splits that are lists of equally long lists; nothing of other objects.

    Example:
        >>> _splits_of_lists({"train": [["hi", "greet"]], "val": [["bye", "leave"]]})["val"]
        [{'column_1': 'bye', 'column_2': 'leave'}]
        >>> _splits_of_lists({"tokens": [["a", "b"]], "tags": [["c", "d"]]})
        {}
    """
    if USUAL.isdisjoint(found) or not all(_are_all(list, value) for value in found.values()):
        return {}
    widths = {len(row) for rows in found.values() for row in rows}
    cells = (cell for rows in found.values() for row in rows for cell in row)
    if len(widths) > 1 or any(isinstance(cell, (list, dict)) for cell in cells):
        return {}
    return {key: [_row(row, key) for row in rows] for key, rows in found.items()}


def _are_turns(rows: Rows) -> bool:
    return any(speaker <= set(row) for speaker in _SPEAKERS for row in rows)


def _are_all(kind: type, items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(i, kind) for i in items)


def _unfolded(path: str, rows: Rows) -> tuple[str, Rows]:
    """Return the path and the items of lists of questions, contexts or examples that rows hold."""
    lengths = {key: [_number_of_texts(row.get(key)) for row in rows] for key in rows[0]}
    for key in filter(_EXAMPLES.__contains__, lengths):
        alone = list(lengths.values()).count(lengths[key]) == 1  # no list of answers to them
        if alone and min(lengths[key]) >= 0 < max(lengths[key]):
            return path, [row | {key: item} for row in rows for item in row[key]]
    for key in (key for key in rows[0] if key not in _CHATS):
        items: list[Any] = [row.get(key) for row in rows]
        asking = _ASKING - {"text"}
        if all(_are_all(dict, item) and not asking.isdisjoint(item[0]) for item in items):
            above = [{k: v for k, v in row.items() if k != key} for row in rows]
            inner = [row | i for row, own in zip(above, items, strict=True) for i in own]
            return _unfolded(f"{path}.{key}", inner)
    return path, rows


def _number_of_texts(value: Any) -> int:
    return len(value) if value == [] or _are_all(str, value) else -1


def _transposed(found: dict[str, Any]) -> Rows:
    """Return the rows of an object that holds columns, or rows by their ids; [] for others."""
    values = list(found.values())
    if values and all(isinstance(value, dict) and value for value in values):
        if not all(key.isdecimal() for value in values for key in value):
            return values if set.intersection(*map(set, values)) else []
        numbers = dict.fromkeys(number for value in values for number in value)
        return [{name: found[name].get(number) for name in found} for number in numbers]
    if not all(isinstance(value, list) for value in values) or len(set(map(len, values))) != 1:
        return []
    return [dict(zip(found, row, strict=True)) for row in zip(*values, strict=True)]
