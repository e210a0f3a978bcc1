"""Find the encoding of a text file; guess it if it is neither UTF-8 nor UTF-16."""

import codecs
import re
from typing import IO

UTF8, WESTERN = "utf-8", "cp1252"
_CANDIDATES = (
    WESTERN, "cp1251", "cp1250", "cp1254", "cp1253", "cp1256", "cp1255", "koi8_r",
    "cp932", "euc_jp", "gb18030", "big5", "cp949",
)  # fmt: skip
"""Windows' encodings and others that files still have; of equally likely ones the first."""
_GUESSED_BYTES = 1 << 16
_CHUNK = 1 << 20
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NOT_ASCII = re.compile(rb"[^\x00-\x7f]")


def encoding_of(file: IO[bytes]) -> str:
    """Return utf-8 or utf-16 if a file is, else a guess from where it is not UTF-8.

    Example:
        >>> from io import BytesIO
        >>> encoding_of(BytesIO("Grüße".encode())), encoding_of(BytesIO("Grüße".encode("utf-16")))
        ('utf-8', 'utf-16')
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    chunk = file.read(_CHUNK)
    if chunk.startswith(_UTF16):
        return "utf-16"
    try:
        while chunk:
            decoder.decode(chunk)
            chunk = file.read(_CHUNK)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return guess_encoding(error.object)
    return UTF8


def guess_encoding(data: bytes) -> str:
    """Return the name of the likely encoding of a text that is not UTF-8.

    `charset_normalizer` measures how much a decoded text looks like one. Where Windows-1252, which
    includes Latin-1, gives the same text as another, or one as likely, it is Windows-1252.

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
    return WESTERN if WESTERN in best.could_be_from_charset else str(best.encoding)


def encoding_note(name: str, encoding: str) -> str:
    """Return what to tell the user about a guessed encoding."""
    return (
        f"{name} is not UTF-8: it is read as {encoding}. If its texts look wrong, save it as "
        "UTF-8: iconv -f ENCODING -t UTF-8"
    )


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
