"""Find the columns of multiple choice: the question, the choices and the right one."""

import re
from collections.abc import Mapping

from hf_lorameta.data.column_names import CHOICE, CHOICES, RIGHT
from hf_lorameta.data.columns import Columns
from hf_lorameta.data.roles import input_columns
from hf_lorameta.data.table_view import TableView, normalized

_CHOICE_NAME = re.compile(r"[A-Ha-h0-9]")


def multiple_choice(table: TableView) -> Columns | None:
    """Multiple choice: a list of choices or a column for each, and the right one."""
    listed = [
        n for n in table.named(CHOICES)
        if table.kind(n) in ("list", "fields") and _holds_texts(table, n)
    ]  # fmt: skip
    stems: dict[str, list[str]] = {}
    for name in table.names:
        found = CHOICE.fullmatch(normalized(name))
        if found and table.kind(name) in ("text", "number"):
            stems.setdefault(found[1] or "", []).append(name)
    single = next((tuple(group) for group in stems.values() if len(group) > 1), None)
    right = [n for n in table.named(RIGHT) if n not in listed and n not in (single or ())]
    right = [n for n in right if table.kind(n) in ("text", "number", "class", "fields", "empty")]
    if not right:
        return None
    if not (listed or single):
        return _written_choices(table, right[0])
    if not single and table.kind(right[0]) == "fields":
        return None  # answers of SQuAD
    choices = listed[0] if listed else single
    taken = {right[0], *(single or ()), *listed}
    inputs = [n for n in input_columns(table, taken) if n not in taken]
    if not inputs:
        return None
    return Columns(input=tuple(inputs), choices=choices, output=right[0])


def _written_choices(table: TableView, right: str) -> Columns | None:
    """Choices within one text, of which a letter or number is right."""
    written = [n for n in table.named(("options", "choices")) if table.kind(n) == "text"]
    inputs = input_columns(table, {right, *written})
    if written and inputs and table.repeats(right):
        return Columns(input=(*inputs, written[0]), output=right)
    return None


def _holds_texts(table: TableView, name: str) -> bool:
    first = next(iter(table.values(name)), None)
    if isinstance(first, Mapping):
        if len(first) > 1 and all(map(_CHOICE_NAME.fullmatch, map(str, first))):
            return all(isinstance(text, str) for text in first.values() if text)
        named = not {"label", "labels"}.isdisjoint(first)
        return named and isinstance(first.get("text"), (list, tuple))
    return first is not None and len(first) > 1
