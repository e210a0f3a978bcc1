"""JSON files that are one object, with the rows in a list below a key."""

import json
from typing import IO, Any

_SPEAKERS = ({"role", "content"}, {"from", "value"})


def row_lists(file: IO[bytes]) -> list[str]:
    """Return the keys of an object's lists of rows; none if the file is not one JSON object.

    A list of turns is part of a row, and is not one of rows.

    Example:
        >>> import io
        >>> row_lists(io.BytesIO(b'{"version": 1, "data": [{"text": "a"}, {"text": "b"}]}'))
        ['data']
        >>> row_lists(io.BytesIO(b'{"data": [{"text": "a"}]}\\n{"data": []}'))
        []
        >>> row_lists(io.BytesIO(b'{"messages": [{"role": "user", "content": "a"}]}'))
        []
    """
    line = file.readline()
    if not line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return []
    rest = file.read()
    try:
        found = json.loads((line + rest).decode("utf-8-sig"))
    except (ValueError, RecursionError):  # JSON lines, or not JSON: its reader says so
        return []
    return [key for key, value in found.items() if _is_rows(value)]


def _is_rows(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(row, dict) and not any(turn <= set(row) for turn in _SPEAKERS)
               for row in value)  # fmt: skip
