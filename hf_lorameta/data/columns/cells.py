"""Convert the cells of a dataset to text: numbers, class labels, lists, nested fields, dates."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time
from math import isnan
from typing import Any

from hf_lorameta.data.columns.columns import split_path
from hf_lorameta.errors import ColumnsError, Option

_ALTERNATIVES = {
    "output", "outputs", "answer", "answers", "target", "targets", "reference", "references",
    "response", "responses", "completion", "completions", "alias", "aliases", "text", "value",
    "solution", "solutions", "correction", "corrections",
}  # fmt: skip
_TEXT_KEYS = ("text", "value", "content", "response")
_WORD = 40


def is_alternatives(path: str) -> bool:
    """Whether a list of texts at this path holds several right outputs, of which one is read.

    Example:
        >>> is_alternatives("answers"), is_alternatives("keywords"), is_alternatives("answers.*")
        (True, False, False)
    """
    return path.rpartition(".")[2].strip().lower() in _ALTERNATIVES


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """Return what a path leads to; None if there is nothing.

    Example:
        >>> value_at({"answers": [{"text": "a"}, {"text": "b"}]}, "answers.text")
        ['a', 'b']
        >>> value_at({"words": ["a", "b"]}, "words.1"), value_at({"words": None}, "words.1")
        ('b', None)
    """
    column, steps = split_path(path, row) or ("", ())
    value = row.get(column)
    for step in steps:
        value = _field(value, step)
    return value


def from_json(value: Any, start: str = "") -> Any:
    """Return what a text that begins with `start` stores as JSON; other values as they are.

    Example:
        >>> from_json('["a"]', "["), from_json('["a"]', "{"), from_json("a")
        (['a'], '["a"]', 'a')
    """
    if isinstance(value, str) and value.lstrip().startswith(start):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def as_object(value: Any) -> Mapping[str, Any] | None:
    """Return a cell that is an object, or the object that it stores as JSON; None for others.

    Example:
        >>> as_object('{"a": 1}'), as_object("a")
        ({'a': 1}, None)
    """
    value = from_json(value, "{")
    return value if isinstance(value, Mapping) else None


def as_texts(value: Any) -> Any:
    """Return the list of texts that a cell stores as JSON; other cells as they are.

    Example:
        >>> as_texts('["a", "b"]'), as_texts('[{"a": 1}]'), as_texts("a")
        (['a', 'b'], '[{"a": 1}]', 'a')
    """
    found = from_json(value, '["')
    return found if isinstance(found, list) and _is_text(found) else value


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; NaN, infinity and booleans are not.

    Example:
        >>> is_whole(2), is_whole(2.0), is_whole(2.5), is_whole(float("nan")), is_whole(True)
        (True, True, False, False, False)
    """
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _field(value: Any, step: str) -> Any:
    if (fields := as_object(value)) is not None:
        return fields.get(step)
    if not isinstance(value, (list, tuple)) or step == "*":
        return value if step == "*" else None
    if step.isdecimal():
        return value[int(step)] if int(step) < len(value) else None
    return [item.get(step) for item in value if isinstance(item, Mapping)]


def cell_text(
    value: Any, path: str, labels: Sequence[str] = (), *, first: bool = False, separator: str = ""
) -> str:
    """Return a cell as text; a missing value is the empty string.

    Args:
        value: of the cell.
        path: where it is, for the error.
        labels: class names of its numbers, if it holds class labels.
        first: of a list of texts, return the first one, not all of them.
        separator: between the items of a list; empty chooses one, see `join_items`.

    Raises:
        ColumnsError: the cell holds several fields, or no text.

    Example:
        >>> cell_text([2, 0], "tags", ["O", "B", "I"]), cell_text({"text": ["a", "b"]}, "answers")
        ('I, O', 'a')
    """
    if isinstance(value, Mapping):
        inner = next((key for key in _TEXT_KEYS if value.get(key)), None)
        inner = inner or _only_text(value, path)
        return cell_text(value[inner], path, first=True) if inner else ""
    if isinstance(value, (list, tuple)):
        texts = [cell_text(item, path, labels) for item in value]
        if first:
            return next((text for text in texts if text), "")
        return join_items([text for text in texts if text], separator)
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()  # a timestamp that stands for a date
    if isinstance(value, bool) and not labels:
        return str(value).lower()
    if isinstance(value, int) and labels:
        return labels[value] if 0 <= value < len(labels) else ""
    if isinstance(value, (str, int, float, date, time)):
        return str(value)
    raise ColumnsError(
        f"column {path} contains {type(value).__name__}, expected text",
        hint=Option("columns", "input=COLUMN,output=COLUMN"),
    )


def _only_text(value: Mapping[str, Any], path: str) -> str | None:
    """Return the one field with a text or a list of texts; None if all are empty.

    Further fields may hold numbers, but nothing that holds texts itself.
    """
    filled = [key for key, item in value.items() if item not in (None, "", [], {})]
    texts = [key for key in filled if _is_text(value[key])]
    nested = [key for key in filled if key not in texts and any(texts_in(value[key]))]
    if len(texts) == 1 and not nested:
        return texts[0]
    if not filled:
        return None
    fields = ", ".join(map(str, value))
    error = ColumnsError(f"column {path} contains a dict with the fields {fields}, expected text")
    error.field = path, f"{path}.{(texts or filled)[0]}"
    raise error


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
    )


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts in a cell, including those in lists and fields.

    Example:
        >>> list(texts_in({"a": ["b", 1], "c": "d"}))
        ['b', 'd']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(item)


def join_items(texts: Sequence[str], separator: str = "") -> str:
    """Join the items of a list: short ones with commas, sentences and longer texts with newlines.

    Example:
        >>> join_items(["joy", "relief"]), join_items(["It rains.", "We stay in, of course."])
        ('joy, relief', 'It rains.\\nWe stay in, of course.')
    """
    if not separator:
        short = all(len(t) <= _WORD and not set(t) & set(",\n") and t[-1:] != "." for t in texts)
        separator = ", " if short else "\n"
    return separator.join(texts)


def is_tokens(items: Iterable[Any]) -> bool:
    """Whether the items of a list are the words of a text.

    Example:
        >>> is_tokens(["It", "rains", "."]), is_tokens(["It rains.", "We stay."])
        (True, False)
    """
    texts = [item for item in items if isinstance(item, str)]
    return len(texts) > 2 and not any(" " in text for text in texts)
