"""Tell the form of a CSV file: its separator, header line, comments, and kinds of numbers."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product, takewhile
from typing import IO, Any

from hf_lorameta.data.sources.text_formats import as_text

_SEPARATORS = ",;\t|"
"""Separators of CSV files; of several that split a header equally, the first is taken."""
_RARE_SEPARATORS = "^:"
"""Separators of files whose first line has none of the others."""
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')
"""The first line of a CSV file for Excel, which is no row."""
DECIMAL = re.compile(r"[+-]?\d+(,\d+)?")
_THOUSANDS = re.compile(r"[+-]?([1-9]\d{0,2},\d{3}|\d+)")
_LABELS = re.compile(r".*(labels|tags|categories|classes|genres|topics|emotions)", re.IGNORECASE)
"""Names of columns where 1,2 is two labels."""
_FIRST_LINE = 1 << 24
"""Most characters of a line that are read to count its columns."""
_NUMBERS = re.compile(r"\d{1,3}([,;|/ ]\d{1,3})*")
DATE = r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(\b|T\d).{0,24}"
_HEADER_ROWS, _LEAST_ROWS, _MEASURED = 2, 6, 2
"""Most rows of a header below its first one, and fewest rows and columns that show it."""
_ENDS = (".", "!")  # a question may be the name of a column
_WORDS, _LENGTH = 4, 25
"""Fewest words and characters of a name that is a sentence."""


def _marks_of(lines: Sequence[str]) -> tuple[str, str]:
    """Return the separator of a CSV file, and the mark that its cells may be within.

    They are those that give all lines as many cells, if there are such, with single quotation
    marks only if double ones do not; of several, the separator that gives the first line the most.

    Example:
        >>> _marks_of(["question, if any;answer;source"])
        (';', '"')
        >>> _marks_of(["Sport;Er kam, sah", "Web;'Gut; schnell'", "Web;Ja, es", "Web;So, gut"])
        (';', "'")
    """
    found: list[tuple[bool, int, str, str]] = []
    for quote, mark in product("\"'", _SEPARATORS):
        rows = _cells(lines, mark, quote)
        found.append((_are_even(rows), len(rows[0]), mark, quote))
    double, single = found[: len(_SEPARATORS)], found[len(_SEPARATORS) :]
    fits = any(even for even, *_ in single) and not any(even for even, *_ in double)
    _, count, mark, quote = max(single if fits else double, key=lambda way: way[:2])
    names, all_lines = "".join(lines[:1]).split(), "\n".join(lines)
    rare = (
        m for m in _RARE_SEPARATORS
        if count < 2 and len(names) == 1 and not re.search(rf"\{m}[ /]", all_lines)
    )  # fmt: skip
    return next((m for m in rare if _are_even(_cells(lines, m, quote))), mark), quote


def _cells(lines: Sequence[str], mark: str, quote: str) -> list[list[str]]:
    """Return the cells of whole rows: the last one may be cut off."""
    rows = [row for row in csv.reader(lines, delimiter=mark, quotechar=quote) if row]
    return rows[:-1] or rows or [[]]


def _are_even(rows: Sequence[Sequence[str]]) -> bool:
    """Whether all rows of a table have as many cells, and several.

    Example:
        >>> _are_even([["a", "b"], ["c", "d"]]), _are_even([["a", "b"], ["c"]]), _are_even([["a"]])
        (True, False, False)
    """
    return len(rows[0]) > 1 and len(set(map(len, rows))) == 1


@dataclass(frozen=True)
class TableForm:
    """The form of a CSV file.

    Attributes:
        mark: that separates its columns.
        quote: the quotation mark that cells may be within.
        above: number of lines above its first row: comments, or ``sep=;`` for Excel.
        codes: columns of numbers of which some begin with a zero.
        decimals: columns of numbers of which some have a decimal comma.
        names: of the columns, if there are spaces around the marks.
        below: number of rows below its first one that are no rows, but belong to its header.
    """

    mark: str
    quote: str
    above: int = 0
    codes: tuple[int, ...] = ()
    decimals: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    below: int = 0


def form_of_table(lines: Sequence[str], mark: str = _SEPARATORS[0]) -> TableForm:
    """Return the form of a CSV file from its first lines.

    A comma as its mark, or a tab that no line has, is what a name states, and may be wrong. A
    number with a comma is a decimal where semicolons separate columns, as Excel writes files where
    commas are decimal, unless all may be thousands or the column has labels. Comments are lines
    that begin with ``#`` and have other numbers of cells than the rows below.

    Example:
        >>> form_of_table(["sep=;", "id;label", "007;4,5", "012;3", "005;3"])
        TableForm(mark=';', quote='"', above=1, codes=(0,), decimals=(1,), names=(), below=0)
        >>> form_of_table(["# of 2024", "text,label", "so,1"]).above, form_of_table(["#,a"]).above
        (1, 0)
        >>> form_of_table(["text;n;labels", "so;1,000;1,2", "so;900;2"]).decimals
        ()
        >>> form_of_table(["text,label", "so,1"], "\\t").mark, form_of_table(["a,b"], "|").mark
        (',', '|')
    """
    stated = _SEPARATOR_LINE.fullmatch(lines[0].strip()) if lines else None
    above = 1 if stated else _number_of_comments(lines)
    lines = lines[above:]
    found, quote = _marks_of(lines)
    wrong = mark == "\t" and mark not in "".join(lines) and _are_even(_cells(lines, found, quote))
    wrong = wrong and not (found in ",;" and all(f"{found} " in line for line in lines))  # prose
    if mark == _SEPARATORS[0] or wrong:
        mark = stated[1] if stated else found
    else:
        quote = '"'
    codes, decimals = list[int](), list[int]()
    rows = _cells(lines, mark, quote)
    below = _rows_of_header(rows)
    for i, column in enumerate(zip(*rows, strict=False)):
        cells = [cell for cell in map(str.strip, column[below + 1 :]) if cell]
        if are_codes(cells):
            codes.append(i)
        elif mark == ";" and _are_decimals(cells) and not _LABELS.fullmatch(column[0].strip()):
            decimals.append(i)
    spaced = mark == "|" and all(" | " in line for line in lines)
    names = tuple(map(str.strip, rows[0]))
    wide = max(map(len, rows)) > len(names)
    names = () if not spaced or wide or len(set(names)) < len(names) else names
    return TableForm(mark, quote, above, tuple(codes), tuple(decimals), names, below)


def _rows_of_header(rows: Sequence[Sequence[str]]) -> int:
    """Return how many rows below the first one name columns, too, as those of surveys do.

    They have no number or date, and all rows below them have, in several columns.

    Example:
        >>> names = [["id", "q1", "on"], ["", "Why?", ""]]
        >>> dates = [[f"{i}", "so", "2024-03-01 10:00"] for i in range(9)]
        >>> _rows_of_header(names + dates), _rows_of_header(names[:1] + dates)
        (1, 0)
    """
    for count in range(_HEADER_ROWS, 0, -1):
        above, below = rows[1 : count + 1], rows[count + 1 :]
        measured = sum(all(map(_is_measured, cells)) for cells in zip(*below, strict=False))
        if len(below) < _LEAST_ROWS or measured < _MEASURED:
            continue
        if not any(map(_is_measured, chain.from_iterable(above))):
            return count
    return 0


def _is_measured(cell: str) -> bool:
    """Whether a cell is a number or a date.

    Example:
        >>> _is_measured("4"), _is_measured("2024-03-01 10:00"), _is_measured("Why?")
        (True, True, False)
    """
    return bool(cell) and (_is_number(cell) or re.fullmatch(DATE, cell) is not None)


def are_codes(cells: Sequence[Any]) -> bool:
    """Whether cells are texts of digits of which some begin with a zero, such as ``007``.

    Example:
        >>> are_codes(["007", "12"]), are_codes(["7", "12"]), are_codes(["007", "x"])
        (True, False, False)
    """
    digits = all(isinstance(cell, str) and cell.isdecimal() for cell in cells)
    return digits and any(cell[0] == "0" and len(cell) > 1 for cell in cells)


def _are_decimals(cells: Sequence[str]) -> bool:
    """Whether numbers have decimal commas, rather than commas of thousands or between labels.

    Labels are in ascending order, and also there without another.

    Example:
        >>> _are_decimals(["4,5", "3", "5"]), _are_decimals(["1,2", "3", "2", "2,3"])
        (True, False)
    """
    if not all(map(DECIMAL.fullmatch, cells)) or all(map(_THOUSANDS.fullmatch, cells)):
        return False
    pairs = [cell.split(",") for cell in cells if "," in cell]
    second = {after for _, after in pairs}
    ascending = all(int(before) < int(after) for before, after in pairs)
    return len(second) < 2 or not ascending or not second <= {cell.split(",")[0] for cell in cells}


def _number_of_comments(lines: Sequence[str]) -> int:
    comments = list(takewhile(lambda line: line.startswith("#"), lines))
    if not comments or _are_even(_cells(lines, *_marks_of(lines))):  # the first line may have names
        return 0
    rest = lines[len(comments) :]
    mark, quote = _marks_of(rest)
    rows = _cells(rest, mark, quote)
    widths = {len(row) for row in csv.reader(comments, delimiter=mark, quotechar=quote)}
    return len(comments) if _are_even(rows) and len(rows[0]) not in widths else 0


def has_plain_quotes(lines: Iterable[str]) -> bool:
    r"""Whether quotation marks belong to the texts of a table whose columns are between tabs.

    They do if each line has as many tabs, and no cell is within them.

    Example:
        >>> has_plain_quotes(['say "so\t1', "it\t0"]), has_plain_quotes(['"so"\t1', "it\t0"])
        (True, False)
    """
    counts = set()
    for line in lines:
        counts.add(line.count("\t"))
        cells = line.rstrip("\n").split("\t") if '"' in line else []
        if len(counts) > 1 or any(len(c) > 1 and c[0] == c[-1] == '"' for c in cells):
            return False
    return True


def columns_in(file: IO[bytes], encoding: str, above: int = 0, **marks: Any) -> int:
    """Return the number of columns in the first line of a CSV file; little more is read.

    It is the first one below those `above`. The marks are those of `csv.reader`.

    Example:
        >>> import io
        >>> [columns_in(io.BytesIO(text), "utf-8") for text in (b"a,b\\n,,", b'"a\\n,b",c')]
        [2, 2]
    """
    text, left = as_text(file, encoding), _FIRST_LINE

    def lines() -> Iterator[str]:
        nonlocal left
        while line := text.readline(left):
            left -= len(line)
            yield line

    before = csv.field_size_limit(_FIRST_LINE)
    try:
        return len(next(islice(csv.reader(lines(), **marks), above, None), []))
    finally:
        csv.field_size_limit(before)
        text.detach()


def lacks_header(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first line of a CSV file is a row rather than the names of the columns.

    It is a row if one of its cells occurs several times in its column, if a cell and its column
    are numbers, or if each cell is a sentence, a number or again in its column. Short ones, such
    as ``Go.``, are sentences if most of their column end like some.

    Args:
        names: of the columns.
        rows: the first ones.

    Example:
        >>> lacks_header(["It rains.", "bad"], [{"It rains.": "Sun!", "bad": "bad"}] * 3)
        True
        >>> lacks_header(["text", "label"], [{"text": "Sun!", "label": "good"}] * 3)
        False
        >>> lacks_header(["Go.", "Geh."], [{"Go.": "Run!", "Geh.": "Lauf!"}] * 3)
        True
    """
    if list(names) == [str(i) for i in range(len(names))]:
        return False  # numbered by a program
    columns = [(name, [row[name] for row in rows if row.get(name) is not None]) for name in names]
    if any(map(_is_value, *zip(*columns, strict=True))):
        return True
    return all(
        _is_number(name) or _is_sentence(name, values) or name in values for name, values in columns
    )


def _is_value(name: str, values: Sequence[Any]) -> bool:
    texts = [str(value) for value in values]
    numbers = _is_number(name) and bool(texts) and all(map(_is_number, texts))
    return numbers or texts.count(name) > 1


def _is_number(text: str) -> bool:
    """Whether a text is a number, or consists of several as ``4,27``."""
    try:
        float(text)
    except ValueError:
        return _NUMBERS.fullmatch(text) is not None
    return True


def _is_sentence(name: str, values: Sequence[Any]) -> bool:
    """Whether a name ends like a sentence, or it is as long as one, as the values are."""
    if len(name.split()) >= _WORDS and name.rstrip().endswith(_ENDS):
        return True
    if name.rstrip().endswith(_ENDS) and values:
        ended = sum(str(value).rstrip().endswith((*_ENDS, "?")) for value in values)
        return 2 * ended > len(values)
    length = sum(len(str(value)) for value in values) / max(len(values), 1)
    return len(name.split()) >= _WORDS and min(len(name), length) >= _LENGTH
