"""Detect the encoding of a text file, and the separator and header line of a CSV file."""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product, takewhile
from typing import IO, Any

from hf_lorameta.errors import DatasetError

SEPARATORS = ",;\t|"
"""Separators of CSV files; of several that split a header equally, the first is taken."""
_RARE_SEPARATORS = "^:"
"""Separators of files whose first line has none of the others."""
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')
"""The first line of a CSV file for Excel, which is no row."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
"""Characters that no text has."""
DECIMAL = re.compile(r"[+-]?\d+(,\d+)?")
_THOUSANDS = re.compile(r"[+-]?([1-9]\d{0,2},\d{3}|\d+)")
_LABELS = re.compile(r".*(labels|tags|categories|classes|genres|topics|emotions)", re.IGNORECASE)
"""Names of columns where 1,2 is two labels."""
UTF8, WESTERN = "utf-8", "cp1252"
_CANDIDATES = (
    WESTERN, "cp1251", "cp1250", "cp1254", "cp1253", "cp1256", "cp1255", "koi8_r",
    "cp932", "euc_jp", "gb18030", "big5", "cp949",
)  # fmt: skip
"""Encodings of Windows and others still in use; of equally likely ones, the first is taken."""
CENTRAL = "cp1250"
_RARE, _SYMBOL = re.compile("[ĺĹŕŔ]"), re.compile(r"\w[¹¾³£¥¯¼¿]\w")
_GUESSED_BYTES = 1 << 16
START = 1 << 16
"""Bytes of a CSV file that show its separator."""
_CHUNK = 1 << 20
_FIRST_LINE = 1 << 24
"""Most characters of a line that are read to count its columns."""
_INTACT = 10
"""Letters that are UTF-8 for each byte that is not, at least, in a file that is UTF-8 elsewhere."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NOT_ASCII = re.compile(rb"[^\x00-\x7f]")
_NUMBERS = re.compile(r"\d{1,3}([,;|/ ]\d{1,3})*")
_ENDS = (".", "!")  # a question may be the name of a column
_WORDS, _LENGTH = 4, 25
"""Fewest words and characters of a name that is a sentence."""

# --- encodings ------------------------------------------------------------------------------------


def as_text(file: IO[bytes], encoding: str) -> io.TextIOWrapper:
    """Return a file as text, without the mark that UTF-8 may begin with."""
    return io.TextIOWrapper(file, "utf-8-sig" if encoding == UTF8 else encoding)


def encoding_of(file: IO[bytes], *, whole: bool = True, name: str = "the file") -> str:
    """Return utf-8 or utf-16 if a file is so encoded, else a guess from where it is not UTF-8.

    Args:
        file: from its start.
        whole: whether to read all of it, not the first MiB alone.
        name: of the file, for the error.

    Raises:
        DatasetError: of the whole file, a byte fits neither UTF-8 nor the guess.

    Example:
        >>> from io import BytesIO
        >>> encoding_of(BytesIO("Grüße".encode())), encoding_of(BytesIO("Grüße".encode("utf-16")))
        ('utf-8', 'utf-16')
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    chunk = file.read(_CHUNK)
    if wide := wide_encoding(chunk):
        return wide
    try:
        while chunk:
            decoder.decode(chunk, final=len(chunk) < _CHUNK)
            chunk = file.read(_CHUNK) if whole else b""
        decoder.decode(b"", final=whole)
    except UnicodeDecodeError as error:
        if not whole:
            return guess_encoding(error.object)
        guess = UTF8 if _is_mostly_utf8(error.object) else guess_encoding(error.object)
        return _fitting(file, guess, name)
    return UTF8


def wide_encoding(start: bytes) -> str:
    """Return UTF-16 if a text is so encoded: it says so, or every other byte is mostly zero.

    Example:
        >>> forms = "utf-16", "utf-16-le", "utf-16-be", "ascii"
        >>> [wide_encoding("a,b".encode(form)) for form in forms]
        ['utf-16', 'utf-16-le', 'utf-16-be', '']
        >>> wide_encoding(b"\\0\\1\\2")
        ''
    """
    if start.startswith(_UTF16):
        return "utf-16"
    zeros = [start[i::2].count(0) for i in (0, 1)]
    encoding = ("utf-16-be", "utf-16-le")[zeros[1] > zeros[0]]
    mostly = 4 * max(zeros) > len(start) and 8 * min(zeros) < max(zeros)
    return encoding if mostly and not _CONTROL.search(start.decode(encoding, "ignore")) else ""


def is_binary(start: bytes) -> bool:
    """Whether a file is no text, as its first bytes show; texts may have escape codes.

    Example:
        >>> is_binary(b"\\x89PNG\\x1a"), is_binary(b"\\xe9\\t,"), is_binary("a,b".encode("utf-16"))
        (True, False, False)
        >>> is_binary(b"\\x1b[1mso"), is_binary(b"so good\\0")
        (False, True)
    """
    others = start.replace(b"\x1b", b"").decode("latin-1")
    return not wide_encoding(start) and bool(_CONTROL.search(others))


def _is_mostly_utf8(data: bytes) -> bool:
    """Whether nearly all that is not ASCII is UTF-8, as in a file with a line from another one.

    Example:
        >>> _is_mostly_utf8("Grüße ".encode() * 20 + b"\\xa3"), _is_mostly_utf8(b"\\xfc " * 20)
        (True, False)
    """
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return sum(not letter.isascii() for letter in text) > _INTACT * broken


def _fitting(file: IO[bytes], guess: str, name: str) -> str:
    """Return the guess, or Latin-1, which has all bytes, for Windows-1252, which lacks five.

    Raises:
        DatasetError: a byte of the file does not fit the guess.
    """
    decoder, line, chunk = codecs.getincrementaldecoder(guess)(), 1, b"-"
    file.seek(0)
    try:
        while chunk:
            chunk = file.read(_CHUNK)
            line += decoder.decode(chunk, final=not chunk).count("\n")
    except UnicodeDecodeError as error:
        if guess == WESTERN:
            return "latin-1"
        line += error.object.count(b"\n", 0, error.start)
        byte = error.object[error.start : error.start + 1]
        raise DatasetError(
            f"{name} cannot be read: the byte 0x{byte.hex()} in line {line} is not {guess}, as the "
            f"rest is; in {WESTERN} it is {byte.decode(WESTERN, 'replace')}",
            hint=f"correct that line, or drop such bytes: iconv -c -f {guess} -t utf-8",
        ) from None
    return guess


def guess_encoding(data: bytes) -> str:
    """Return the name of the likely encoding of a text that is not UTF-8.

    `charset_normalizer` measures how much a decoded text looks like real text. If Windows-1252,
    which includes Latin-1, gives the same text as another encoding, or one as likely, it is chosen.

    Example:
        >>> guess_encoding("Schöne Grüße aus Übersee".encode("latin-1"))
        'cp1252'
        >>> guess_encoding("Привет, мир! Как дела?".encode("cp1251"))
        'cp1251'
        >>> guess_encoding("你好世界，今天天气很好。".encode("gb18030"))
        'gb18030'
    """
    from charset_normalizer import from_bytes

    found = from_bytes(_telling_lines(data), cp_isolation=list(_CANDIDATES))
    if not found:
        return WESTERN if _decodes(data, WESTERN) else "latin-1"
    best = min(
        found,
        key=lambda match: (
            round(match.chaos, 2), -round(match.coherence, 1), _CANDIDATES.index(match.encoding),
        ),
    )  # fmt: skip
    western = WESTERN in best.could_be_from_charset or _is_western(data, best.encoding)
    return WESTERN if western else str(best.encoding)


def _is_western(data: bytes, encoding: str) -> bool:
    """Whether a text that may be in Windows-1250 is more likely in Windows-1252.

    It is if, read as Windows-1250, it has ĺ or ŕ, which are rare in Central Europe and are å and à
    in Windows-1252, and if, read as Windows-1252, it has no symbol within a word.

    Example:
        >>> [_is_western(text.encode(CENTRAL), CENTRAL) for text in ("Sĺ är det", "stĺp, ďatľov")]
        [True, False]
    """
    if encoding != CENTRAL or not _decodes(data, WESTERN):
        return False
    rare = _RARE.search(data.decode(CENTRAL, "ignore"))
    return rare is not None and not _SYMBOL.search(data.decode(WESTERN))


def _telling_lines(data: bytes) -> bytes:
    """Return whole lines from the first one that is not ASCII."""
    first = _NOT_ASCII.search(data)
    start = data.rfind(b"\n", 0, first.start()) + 1 if first else 0
    end = data.rfind(b"\n", start, start + _GUESSED_BYTES)
    return data[start : end if end > start else start + _GUESSED_BYTES]


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


# --- separators and headers -----------------------------------------------------------------------


def lines_of(start: bytes, encoding: str = "") -> list[str]:
    """Return the whole lines at the start of a text file; none of one that is not text.

    Without an encoding, it is UTF-8 or UTF-16, or guessed.
    """
    end = start.rfind(b"\n") + 1 if len(start) == START else 0
    start = start[: end or None]
    encoding = encoding or wide_encoding(start)
    try:
        text = start.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError:
        text = start.decode(encoding or guess_encoding(start), "ignore")
    return [] if "\0" in text else text.lstrip("\ufeff").splitlines()


def marks_of(lines: Sequence[str]) -> tuple[str, str]:
    """Return the separator of a CSV file, and the mark that its cells may be within.

    They are those that give all lines as many cells, if there are such, with single quotation
    marks only if double ones do not; of several, the separator that gives the first line the most.

    Example:
        >>> marks_of(["question, if any;answer;source"])
        (';', '"')
        >>> marks_of(["Sport;Er kam, sah", "Web;'Gut; schnell'", "Web;Ja, es", "Web;So, gut"])
        (';', "'")
    """
    found: list[tuple[bool, int, str, str]] = []
    for quote, mark in product("\"'", SEPARATORS):
        rows = _cells(lines, mark, quote)
        found.append((are_even(rows), len(rows[0]), mark, quote))
    double, single = found[: len(SEPARATORS)], found[len(SEPARATORS) :]
    fits = any(even for even, *_ in single) and not any(even for even, *_ in double)
    _, count, mark, quote = max(single if fits else double, key=lambda way: way[:2])
    names, all_lines = "".join(lines[:1]).split(), "\n".join(lines)
    rare = (
        m for m in _RARE_SEPARATORS
        if count < 2 and len(names) == 1 and not re.search(rf"\{m}[ /]", all_lines)
    )  # fmt: skip
    return next((m for m in rare if are_even(_cells(lines, m, quote))), mark), quote


def _cells(lines: Sequence[str], mark: str, quote: str) -> list[list[str]]:
    """Return the cells of whole rows: the last one may be cut off."""
    rows = [row for row in csv.reader(lines, delimiter=mark, quotechar=quote) if row]
    return rows[:-1] or rows or [[]]


def are_even(rows: Sequence[Sequence[str]]) -> bool:
    """Whether all rows of a table have as many cells, and several.

    Example:
        >>> are_even([["a", "b"], ["c", "d"]]), are_even([["a", "b"], ["c"]]), are_even([["a"]])
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
    """

    mark: str
    quote: str
    above: int = 0
    codes: tuple[int, ...] = ()
    decimals: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


def form_of_table(lines: Sequence[str], mark: str = SEPARATORS[0]) -> TableForm:
    """Return the form of a CSV file from its first lines.

    A comma as its mark, or a tab that no line has, is what a name states, and may be wrong. A
    number with a comma is a decimal where semicolons separate columns, as Excel writes files where
    commas are decimal, unless all may be thousands or the column has labels. Comments are lines
    that begin with ``#`` and have other numbers of cells than the rows below.

    Example:
        >>> form_of_table(["sep=;", "id;label", "007;4,5", "012;3", "005;3"])
        TableForm(mark=';', quote='"', above=1, codes=(0,), decimals=(1,), names=())
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
    found, quote = marks_of(lines)
    wrong = mark == "\t" and mark not in "".join(lines) and are_even(_cells(lines, found, quote))
    if mark == SEPARATORS[0] or wrong:
        mark = stated[1] if stated else found
    else:
        quote = '"'
    codes, decimals = list[int](), list[int]()
    rows = _cells(lines, mark, quote)
    for i, column in enumerate(zip(*rows, strict=False)):
        cells = [cell for cell in map(str.strip, column[1:]) if cell]
        if all(map(str.isdecimal, cells)) and any(c[0] == "0" and len(c) > 1 for c in cells):
            codes.append(i)
        elif mark == ";" and _are_decimals(cells) and not _LABELS.fullmatch(column[0].strip()):
            decimals.append(i)
    spaced = mark == "|" and all(" | " in line for line in lines)
    names = tuple(map(str.strip, rows[0]))
    wide = max(map(len, rows)) > len(names)
    names = () if not spaced or wide or len(set(names)) < len(names) else names
    return TableForm(mark, quote, above, tuple(codes), tuple(decimals), names)


def _are_decimals(cells: Sequence[str]) -> bool:
    return all(map(DECIMAL.fullmatch, cells)) and not all(map(_THOUSANDS.fullmatch, cells))


def _number_of_comments(lines: Sequence[str]) -> int:
    comments = list(takewhile(lambda line: line.startswith("#"), lines))
    if not comments or are_even(_cells(lines, *marks_of(lines))):  # the first line may have names
        return 0
    rest = lines[len(comments) :]
    mark, quote = marks_of(rest)
    rows = _cells(rest, mark, quote)
    widths = {len(row) for row in csv.reader(comments, delimiter=mark, quotechar=quote)}
    return len(comments) if are_even(rows) and len(rows[0]) not in widths else 0


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
        >>> [columns_in(io.BytesIO(text), UTF8) for text in (b"a,b\\n,,", b'"a\\n,b",c')]
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
