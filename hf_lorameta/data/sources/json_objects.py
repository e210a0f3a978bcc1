"""JSON files that are one object, with rows in a list below a key or with columns; null rows."""

import json
from contextlib import suppress
from typing import IO, Any

_START = 64
_SPEAKERS = ({"role", "content"}, {"from", "value"})

Rows = list[dict[str, Any]]


def rows_by_key(file: IO[bytes]) -> dict[str, Rows]:
    """Return the lists of rows in a file that is one JSON object; none if it is not.

    An object that holds columns, or rows by their ids, has one list, whose key is empty. Columns
    are lists of the same length, or, as pandas writes them, values by the row's number. A list of
    turns is part of a row, and is not one of rows.

    Example:
        >>> import io
        >>> rows_by_key(io.BytesIO(b'{"version": 1, "data": [{"text": "a"}, {"text": "b"}]}'))
        {'data': [{'text': 'a'}, {'text': 'b'}]}
        >>> rows_by_key(io.BytesIO(b'{"q": ["a", "b"], "a": ["c", "d"]}'))
        {'': [{'q': 'a', 'a': 'c'}, {'q': 'b', 'a': 'd'}]}
        >>> rows_by_key(io.BytesIO(b'{"q": {"0": "a", "1": "b"}, "a": {"0": "c", "1": "d"}}'))
        {'': [{'q': 'a', 'a': 'c'}, {'q': 'b', 'a': 'd'}]}
        >>> rows_by_key(io.BytesIO(b'{"x1": {"q": "a"}, "x2": {"q": "b"}}'))
        {'': [{'q': 'a'}, {'q': 'b'}]}
        >>> rows_by_key(io.BytesIO(b'{"data": [{"text": "a"}]}\\n{"data": []}'))
        {}
        >>> rows_by_key(io.BytesIO(b'{"messages": [{"role": "user", "content": "a"}]}'))
        {}
    """
    found = _object(file)
    lists = {
        key: value for key, value in found.items()
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    }  # fmt: skip
    if lists:
        return {
            key: rows for key, rows in lists.items()
            if not any(turn <= set(row) for turn in _SPEAKERS for row in rows)
        }  # fmt: skip
    rows = _transposed(found)
    return {"": rows} if len(rows) > 1 else {}


def _transposed(found: dict[str, Any]) -> Rows:
    """Return the rows of an object that holds columns, or rows by their ids; none of others."""
    values = list(found.values())
    if values and all(isinstance(value, dict) and value for value in values):
        if not all(key.isdecimal() for value in values for key in value):
            return values
        numbers = dict.fromkeys(number for value in values for number in value)
        return [{name: found[name].get(number) for name in found} for number in numbers]
    if not all(isinstance(value, list) for value in values) or len(set(map(len, values))) != 1:
        return []
    return [dict(zip(found, row, strict=True)) for row in zip(*values, strict=True)]


def _object(file: IO[bytes]) -> dict[str, Any]:
    """Return the object that a file holds; an empty one if it holds none."""
    line = file.readline(_START)
    if not line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return {}
    line += b"" if line.endswith(b"\n") else file.readline()
    found = _parsed(line)
    if found is None:
        return _parsed(line + file.read()) or {}
    return {} if any(map(bytes.strip, file)) else found  # else JSON lines


def _parsed(data: bytes) -> dict[str, Any] | None:
    """Return the object that a text is; None if it is not JSON: its reader says so."""
    try:
        found: dict[str, Any] = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return found


def null_row(file: IO[str]) -> int | None:
    """Return the line, or the item of a list, from 1, where a JSON file has ``null`` for a row.

    `pyarrow` crashes on it, and on other lines that begin so. A null in an object or a list of
    several lines is a value.

    Returns:
        None if no row is null.

    Example:
        >>> from io import StringIO
        >>> null_row(StringIO('{"a": 1}\\nnull\\n')), null_row(StringIO('[{"a": null}, null]'))
        (2, 2)
        >>> null_row(StringIO('{"a":\\nnull,\\n"b": 1}'))
    """
    before = ""
    for number, line in enumerate(file, 1):
        line = line.removeprefix("\ufeff").strip()
        if not before and line.startswith("["):
            with suppress(ValueError, RecursionError):
                rows = json.loads(line + file.read())
                return rows.index(None) + 1 if None in rows else None
            return None
        if line.startswith("null") and not before.endswith((",", ":", "[")):
            return number
        before = line or before
    return None
