"""Multiple choice: the choices as a list, and the text of the right one."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_lorameta.data.cells import cell_text, value_at


class Choices:
    """Reads the choices of a row, and finds the right one.

    Args:
        columns: one column with a list, or with the fields ``text`` and ``label``; or one column
            for each choice.
        answer: the column of the right one: its text, its letter or its number.
        labels: class names of the numbers in the answer's column.
        sample: rows that tell whether numbers start at 0 or at 1.

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
        self._columns, self._answer, self._labels = tuple(columns), answer, labels
        self._start = self._first_number(sample)

    def texts(self, row: Mapping[str, Any]) -> list[str]:
        """Return the choices of a row."""
        return [text for _, text in self._named(row)]

    def right(self, row: Mapping[str, Any]) -> str:
        """Return the right choice; the empty string if the answer names none."""
        named = self._named(row)
        texts = [text for _, text in named]
        value = value_at(row, self._answer)
        if isinstance(value, int) and not isinstance(value, bool) and self._labels:
            return _at(texts, value)  # class labels count from 0
        answer = cell_text(value, self._answer, first=True).strip()
        if answer in texts:
            return answer
        by_name = {name.strip().upper(): text for name, text in named if name}
        key = answer.strip("().: ").upper()
        if key in by_name:
            return by_name[key]
        if answer.lstrip("-").isdecimal():
            return _at(texts, int(answer) - self._start)
        if len(key) == 1 and "A" <= key <= "Z":
            return _at(texts, ord(key) - ord("A"))
        return ""

    def _named(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return (name, text) of each choice; the name is empty if the row has none."""
        if len(self._columns) > 1:
            texts = [cell_text(value_at(row, name), name) for name in self._columns]
            return [("", text) for text in texts if text]
        value = value_at(row, self._columns[0])
        if isinstance(value, Mapping) and isinstance(value.get("text"), (list, tuple)):
            names = value.get("label") or value.get("labels") or [""] * len(value["text"])
            return [(str(n), str(t)) for n, t in zip(names, value["text"], strict=False)]
        if isinstance(value, Mapping):  # {"A": "red", "B": "blue"}
            return [(str(n), str(t)) for n, t in value.items() if t]
        if isinstance(value, (list, tuple)):
            return [_item(item) for item in value]
        return []

    def _first_number(self, sample: Sequence[Mapping[str, Any]]) -> int:
        """Return 1 if no answer in the sample is number 0 and one is as high as their count."""
        numbers = []
        for row in sample:
            text = cell_text(value_at(row, self._answer), self._answer, first=True)
            if text.isdecimal():
                numbers.append((int(text), len(self.texts(row))))
        past_end = any(number == count for number, count in numbers)
        return int(past_end and all(number != 0 for number, _ in numbers))


def _item(item: Any) -> tuple[str, str]:
    if isinstance(item, Mapping):
        name = item.get("label") or item.get("key") or item.get("id") or ""
        return str(name), cell_text(item, "choices")
    return "", cell_text(item, "choices")


def _at(texts: Sequence[str], index: int) -> str:
    return texts[index] if 0 <= index < len(texts) else ""


def show_choices(texts: Sequence[str]) -> str:
    """Return choices as lines below an input.

    Example:
        >>> show_choices(["red", "blue"])
        '- red\\n- blue'
    """
    return "\n".join(f"- {text}" for text in texts)
