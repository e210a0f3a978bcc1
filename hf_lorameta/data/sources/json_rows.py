"""Rows of JSON files: lines, lists, and objects with rows somewhere in them.

The reader of `datasets` is not used: its `pyarrow` crashes on a row that is ``null``, and it
requires later rows to have the columns of the first ones.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

from hf_lorameta.data.sources.text_formats import UTF8, as_text
from hf_lorameta.errors import DatasetError

Rows = list[dict[str, Any]]
_SPACE = re.compile(r"\s*")
_ESCAPED = "\\ud"
_ASKING = {"question", "query", "prompt", "instruction", "input", "context", "passage", "text"}
_SPEAKERS = ({"role", "content"}, {"from", "value"})


def json_rows(file: IO[bytes], name: str, encoding: str = UTF8) -> Iterator[dict[str, Any]]:
    r"""Yield the rows of a file: its lines, or the items of the list that it holds.

    A text becomes a row with the column ``text``, and a list one with ``column_1``, ….

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
        yield from _rows_in(text, name)


def _rows_in(text: IO[str], name: str) -> Iterator[dict[str, Any]]:
    lines = ((n, line) for n, line in enumerate(text, 1) if not line.isspace())
    number, line = next(lines, (0, ""))
    value = _parsed(line)
    if value is None:
        values = list(_values(line + text.read(), name, number))
    elif (second := next(lines, None)) is None:
        values = [value]
    else:
        for n, each in chain([(number, line), second], lines):
            try:
                value = _loads(each)
            except (ValueError, RecursionError):
                raise _malformed(name, n) from None
            yield _row(value, f"{name}: line {n}")
        return
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    elif len(values) == 1 and isinstance(values[0], dict):
        values = next(iter(_by_path(values[0]).values()), values)
    yield from (_row(value, f"{name}: line {i}") for i, value in enumerate(values, 1))


def _loads(text: str) -> Any:
    """Return a JSON value, without lone halves of UTF-16 pairs, which cannot be encoded."""
    value = json.loads(text)
    if _ESCAPED in text.lower():
        whole = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        value = json.loads(whole)
    return value


def _values(text: str, name: str, start: int) -> Iterator[Any]:
    """Yield the JSON values in a text that starts at a line, one after the other."""
    decoder, place = json.JSONDecoder(), 0
    while (place := _SPACE.match(text, place).end()) < len(text):  # type: ignore[union-attr]
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            line = start + text.count("\n", 0, getattr(error, "pos", place))
            raise _malformed(name, line) from None
        yield value


def _malformed(name: str, line: int) -> DatasetError:
    return DatasetError(
        f"{name} cannot be read: line {line} is not a JSON value in UTF-8",
        hint='correct that line: each row is an object, such as {"input": "…", "output": "…"}',
    )


def _row(value: Any, place: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list):
        return {f"column_{i}": cell for i, cell in enumerate(value, 1)}
    kind = "null" if value is None else "a number"
    raise DatasetError(f"{place} is {kind}, expected an object", hint="remove it")


# --- files that are one object --------------------------------------------------------------------


def rows_by_path(file: IO[bytes]) -> dict[str, Rows]:
    """Return the lists of rows in a file that is one JSON object, by the keys that lead to them.

    The longest is the first.

    An object that holds columns, or rows by their ids, has one list, whose path is empty. Columns
    are lists of the same length, or, as pandas writes them, values by the row's number. An object
    with a text of its own, or with turns, is a row, not one that holds rows. Where each row holds a
    list of questions or contexts, as in SQuAD's own files, the items of those lists are the rows.

    Example:
        >>> import io
        >>> def paths(text):
        ...     return rows_by_path(io.BytesIO(text.encode()))
        >>> paths('{"version": 1, "data": {"items": [{"text": "a"}, {"text": "b"}]}}')
        {'data.items': [{'text': 'a'}, {'text': 'b'}]}
        >>> paths('{"data": [{"title": "T", "qas": [{"question": "a"}, {"question": "b"}]}]}')
        {'data.qas': [{'title': 'T', 'question': 'a'}, {'title': 'T', 'question': 'b'}]}
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
    return _by_path(_object(file))


def _by_path(found: dict[str, Any]) -> dict[str, Rows]:
    """Return the lists of rows in an object by their paths; the longest is the first."""
    lists = dict(_unfolded(*named) for named in _lists(found, ()))
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
    if lists:
        yield from ((".".join((*path, key)), rows) for key, rows in lists.items())
    elif len(rows := _transposed(found)) > 1:
        yield ".".join(path), rows
    else:
        for key, value in found.items():
            if isinstance(value, dict):
                yield from _lists(value, (*path, key))


def _are_turns(rows: Rows) -> bool:
    return any(speaker <= set(row) for speaker in _SPEAKERS for row in rows)


def _are_all(kind: type, items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(i, kind) for i in items)


def _unfolded(path: str, rows: Rows) -> tuple[str, Rows]:
    """Return the path and the items of lists of questions or contexts that rows hold."""
    for key in rows[0]:
        items: list[Any] = [row.get(key) for row in rows]
        asking = _ASKING - {"text"}
        if all(_are_all(dict, item) and not asking.isdisjoint(item[0]) for item in items):
            above = [{k: v for k, v in row.items() if k != key} for row in rows]
            inner = [row | i for row, own in zip(above, items, strict=True) for i in own]
            return _unfolded(f"{path}.{key}", inner)
    return path, rows


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


def _object(file: IO[bytes]) -> dict[str, Any]:
    """Return the object that a file holds; an empty one if it holds none."""
    line = next(filter(bytes.strip, file), b"")
    if not line.removeprefix(BOM_UTF8).lstrip().startswith(b"{"):
        return {}
    if (found := _parsed(line)) is None:
        return _parsed(line + file.read()) or {}
    return {} if any(map(bytes.strip, file)) else found  # else JSON lines


def _parsed(data: bytes | str) -> Any:
    """Return the value of a JSON text; None for another text, which the line reader reports."""
    try:
        return _loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
