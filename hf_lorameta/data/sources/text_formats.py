"""Detect the encoding of a text file, and read its first lines."""

import codecs
import io
import re
from typing import IO

from hf_lorameta.errors import DatasetError

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
"""Characters that no text has."""
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
_INTACT = 10
"""Letters that are UTF-8 for each byte that is not, at least, in a file that is UTF-8 elsewhere."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NOT_ASCII = re.compile(rb"[^\x00-\x7f]")


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
            code="file.mixed-encodings",
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
