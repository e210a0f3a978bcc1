"""Tell CSV files without a header line, whose first row would be taken for names of columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_lorameta.tables import plural

_WORDS, _LENGTH = 4, 25


def lacks_header(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the names of columns are a row.

    One is if a name occurs several times among the values of its column, if name and values of a
    column are numbers, or if all names are sentences or numbers.

    Args:
        names: of the columns.
        rows: the first ones.

    Example:
        >>> lacks_header(["It rains.", "bad"], [{"It rains.": "Sun!", "bad": "bad"}] * 3)
        True
        >>> lacks_header(["text", "label"], [{"text": "Sun!", "label": "good"}] * 3)
        False
    """
    if list(names) == [str(i) for i in range(len(names))]:
        return False  # numbered by a program
    columns = [(name, [row[name] for row in rows if row.get(name) is not None]) for name in names]
    if any(map(_is_value, *zip(*columns, strict=True))):
        return True
    return all(_is_number(name) or _is_sentence(name, values) for name, values in columns)


def name_columns(builder: Any, count: int) -> None:
    """Make a CSV builder of `datasets` read the first line as a row, and name the columns."""
    builder.config.header = None
    builder.config.names = [f"column_{i}" for i in range(1, count + 1)]


def header_note(name: str, count: int) -> str:
    """Return what to tell the user about a file without a header."""
    names = "column_1" if count == 1 else f"column_1 {'and' if count == 2 else 'to'} column_{count}"
    return f"{name} has no header line: {plural(count, 'column')} named {names}"


def _is_value(name: str, values: Sequence[Any]) -> bool:
    texts = [str(value) for value in values]
    numbers = _is_number(name) and bool(texts) and all(map(_is_number, texts))
    return numbers or texts.count(name) > 1


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_sentence(name: str, values: Sequence[Any]) -> bool:
    """Whether a name is as long as a sentence, and the values are as well."""
    length = sum(len(str(value)) for value in values) / max(len(values), 1)
    return len(name.split()) >= _WORDS and min(len(name), length) >= _LENGTH
