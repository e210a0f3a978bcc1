"""Multiple choice: which columns have the choices, how they are shown, and which one is right."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hf_lorameta.data.columns import names as known
from hf_lorameta.data.columns.cells import cell_text, is_whole, value_at
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.roles import input_columns
from hf_lorameta.data.columns.table_view import TableView, normalized

_Named = Sequence[tuple[str, str]]
"""(name, text) of each choice; the name is empty if it has none."""
_Answer = str | int | float
"""A whole number, or a text."""
_Way = Callable[[_Named, _Answer], str]
_CHOICE_NAME = re.compile(r"[A-Ha-h0-9]")


def multiple_choice(table: TableView) -> Columns | None:
    """Return the columns of a multiple-choice dataset; None if it is not one."""
    listed = [
        n for n in table.named(known.CHOICES)
        if table.kind(n) in ("list", "fields") and _holds_texts(table, n)
    ]  # fmt: skip
    stems: dict[str, list[str]] = {}
    for name in table.names:
        found = known.CHOICE.fullmatch(normalized(name))
        if found and table.kind(name) in ("text", "number"):
            stems.setdefault(found[1] or "", []).append(name)
    single = next((tuple(group) for group in stems.values() if len(group) > 1), None)
    right = [n for n in table.named(known.RIGHT) if n not in listed and n not in (single or ())]
    right = [n for n in right if table.kind(n) not in ("turns", "other")]
    if not right:
        return None
    for name in filter(lambda name: table.kind(name) == "fields", table.named(known.QUESTIONS)):
        fields = table.values(name)[0]
        held = [key for key in fields if key in known.CHOICES]
        if held:  # the question itself is the longest text beside them
            stem = max(fields, key=lambda key: len(str(fields[key])) * (key not in held))
            return Columns(input=f"{name}.{stem}", choices=f"{name}.{held[0]}", output=right[0])
    written = [n for n in table.named(("options", "choices")) if table.kind(n) == "text"]
    inputs = input_columns(table, {right[0], *(single or ()), *listed, *written})
    if not inputs or not (listed or single or written):
        return None
    if not (listed or single):  # they are in one text
        return Columns(input=(*inputs, written[0]), output=right[0])
    if not single and table.kind(right[0]) == "fields":
        return None  # answers of SQuAD
    return Columns(input=tuple(inputs), choices=listed[0] if listed else single, output=right[0])


def _holds_texts(table: TableView, name: str) -> bool:
    first = next(iter(table.values(name)), None)
    if isinstance(first, Mapping):
        if len(first) > 1 and all(map(_CHOICE_NAME.fullmatch, map(str, first))):
            return all(isinstance(text, str) for text in first.values() if text)
        named = not {"label", "labels"}.isdisjoint(first)
        return named and isinstance(first.get("text"), (list, tuple))
    return first is not None and len(first) > 1


class Choices:
    """Reads the choices of a row, and finds the right one.

    Args:
        columns: one column with a list, or with the fields ``text`` and ``label``; or one column
            for each choice.
        answer: the column of the right one: its text, its letter or its number.
        labels: class names of the numbers in the answer's column.
        sample: rows that show whether numbers start at 0 or 1.

    Example:
        >>> choices = Choices(["options"], "answer")
        >>> row = {"options": ["red", "blue"], "answer": "B"}
        >>> choices.texts(row), choices.right(row)
        (['red', 'blue'], 'blue')
    """

    def __init__(
        self,
        columns: Sequence[str],
        answer: str,
        labels: Sequence[str] = (),
        sample: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._columns, self._answer = tuple(columns), answer
        found = [(self._named(row), self._answered(row)) for row in sample]

        def count(way: _Way) -> int:
            return sum(bool(way(*one)) for one in found)

        numbers = [partial(_by_place, first=first) for first in ((0,) if labels else (0, 1))]
        ways: list[_Way] = [_by_name, max(numbers, key=count)]
        if labels:  # count from 0
            ways = ways[1:]
        elif all(map(is_whole, (value for _, value in found if value != ""))):
            ways = [*ways, _by_text]  # which may be that of another choice
        else:
            ways = [_by_text, *ways]
        self._ways = sorted(ways, key=count, reverse=True)

    def texts(self, row: Mapping[str, Any]) -> list[str]:
        """Return the choices of a row, without empty ones."""
        return [text for _, text in self._named(row) if text]

    def right(self, row: Mapping[str, Any]) -> str:
        """Return the text of the right choice; empty if the answer matches none."""
        named, value = self._named(row), self._answered(row)
        return next(filter(None, (way(named, value) for way in self._ways)), "")

    def _answered(self, row: Mapping[str, Any]) -> _Answer:
        value: _Answer = value_at(row, self._answer)
        return value if is_whole(value) else cell_text(value, self._answer, first=True).strip()

    def _named(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return (name, text) of each choice; the name is empty if the row has none."""
        if len(self._columns) > 1:
            return [("", cell_text(value_at(row, name), name)) for name in self._columns]
        value = value_at(row, self._columns[0])
        if isinstance(value, Mapping) and isinstance(value.get("text"), (list, tuple)):
            names = value.get("label") or value.get("labels") or [""] * len(value["text"])
            found = zip(names, value["text"], strict=False)
            return [(str(name), cell_text(text, "choices")) for name, text in found]
        if isinstance(value, Mapping):  # {"A": "red", "B": "blue"}
            return [(str(name), cell_text(text, "choices")) for name, text in value.items()]
        if isinstance(value, (list, tuple)):
            return [_item(item) for item in value]
        return []


def _item(item: Any) -> tuple[str, str]:
    if isinstance(item, Mapping):
        name = item.get("label") or item.get("key") or item.get("id") or ""
        return str(name), cell_text(item, "choices")
    return "", cell_text(item, "choices")


# --- ways to say which choice is right ------------------------------------------------------------


def _by_text(named: _Named, answer: _Answer) -> str:
    return str(answer) if str(answer) in (text for _, text in named) else ""


def _by_name(named: _Named, answer: _Answer) -> str:
    return {name.strip().upper(): text for name, text in named if name}.get(_key(answer), "")


def _by_place(named: _Named, answer: _Answer, first: int) -> str:
    """Return a choice by its letter, or by its number, of which `first` is the lowest."""
    key = _key(answer)
    index = int(key) - first if key.isdecimal() else ord(key) - ord("A") if len(key) == 1 else -1
    return named[index][1] if 0 <= index < len(named) else ""


def _key(answer: _Answer) -> str:
    return answer.strip("().: ").upper() if isinstance(answer, str) else str(int(answer))


def show_choices(texts: Sequence[str]) -> str:
    """Return choices as lines below an input.

    Example:
        >>> show_choices(["red", "blue"])
        '- red\\n- blue'
    """
    return "\n".join(f"- {text}" for text in texts)
