"""Rows of text files: lines, words with their tags, lines with labels, or files of classes."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, takewhile
from pathlib import PurePosixPath
from typing import IO, Any

from hf_lorameta.data.sources.split_names import USUAL
from hf_lorameta.data.sources.text_formats import UTF8, as_text

_LOOK = 64
"""Lines that show the form of a file."""
_LABEL, _DOCUMENT = "__label__", "-DOCSTART-"
_COMMENT = re.compile(r"# \w+ =|# newdoc|# newpar|#\t")
_SEPARATORS = "\t|;@"
_PROSE = re.compile(r"\w[.,!?;]$")
_REPEATED = 3
"""How often one of few tags or labels occurs on average, at least."""
_WORD, _TAG = 1, 3
"""Fields that are read of CoNLL-U lines, which have ten; of other lines, the first and the last,
or the two behind a number that counts the words.
"""
_WORDS = re.compile(r"[^\W\d]{2,}([ _.-][^\W\d]+)*")

Form = Callable[[Iterable[str]], Iterator[dict[str, Any]]]


def text_rows(file: IO[bytes], encoding: str = UTF8) -> Iterator[dict[str, Any]]:
    r"""Yield the lines of a file as ``text``.

    For words with tags (CoNLL), yield ``tokens`` and ``tags`` of each sentence; for lines that
    begin with labels (fastText), ``labels`` too.

    Example:
        >>> import io
        >>> list(text_rows(io.BytesIO(b"__label__spam win now\n__label__ham hi")))
        [{'text': 'win now', 'labels': ['spam']}, {'text': 'hi', 'labels': ['ham']}]
        >>> list(text_rows(io.BytesIO(b"Ada PER\nlives O\nhere O\n\nBob PER\nis O\nin O\n")))[1]
        {'tokens': ['Bob', 'is', 'in'], 'tags': ['PER', 'O', 'O']}
    """
    with as_text(file, encoding) as text:
        lines = (line.rstrip("\n") for line in text)
        start = list(islice(lines, _LOOK))
        yield from _form(start)(chain(start, lines))


def _form(start: Sequence[str]) -> Form:
    filled = [line for line in start if line.strip()]
    if filled and all(line.startswith(_LABEL) for line in filled):
        return _labeled
    words = [fields for sentence in _sentences(start) for fields in sentence]
    tags = [fields[-1] for fields in words]
    alike = len(set(map(len, words))) == 1 and len(words[0]) > 1
    few = repeat(tags) and not any(map(_PROSE.search, set(tags)))
    return _tagged if alike and few and len(words) < len(start) else _plain


def separator_between(lines: Sequence[str]) -> str:
    r"""Return what is between the columns if lines are rows of a table, else nothing.

    Each line has as many tabs, and they are not words with tags; or as many of another mark, and
    its first or its last cell is one of a few labels.

    Example:
        >>> separator_between(["It rains.\tweather", "I am so glad.\tjoy"])
        '\t'
        >>> separator_between([f"It rains {i}.;{'ab'[i % 2]}" for i in range(9)])
        ';'
        >>> separator_between(["a\tb", "c"]), separator_between(["So; it is.", "And; so on."])
        ('', '')
    """
    filled = [line for line in lines[:_LOOK] if line.strip()]
    if len(filled) < 2 or is_tagged_or_labeled(lines):
        return ""
    for mark in _SEPARATORS:
        if len(counts := {line.count(mark) for line in filled}) > 1 or counts == {0}:
            continue
        ends = zip(*(line.split(mark)[:: line.count(mark)] for line in filled), strict=True)
        if mark == "\t" or any(map(repeat, ends)):
            return mark
    return ""


def repeat(texts: Sequence[str]) -> bool:
    """Whether few different texts occur often, as tags and labels do.

    Example:
        >>> repeat(["PER", "O", "O"] * 2), repeat(["It", "rains", "."])
        (True, False)
    """
    return _REPEATED * len(set(texts)) <= len(texts)


def is_tagged_or_labeled(lines: Sequence[str]) -> bool:
    """Whether lines are words with tags, or begin with labels, rather than being texts.

    Example:
        >>> is_tagged_or_labeled(["__label__ham hi"]), is_tagged_or_labeled(["It rains."])
        (True, False)
    """
    return _form(lines[:_LOOK]) is not _plain


def _plain(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    return ({"text": line} for line in lines)


def _labeled(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for words in map(str.split, filter(str.strip, lines)):
        labels = list(takewhile(lambda word: word.startswith(_LABEL), words))
        text = " ".join(words[len(labels) :])
        yield {"text": text, "labels": [label.removeprefix(_LABEL) for label in labels]}


def _tagged(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for words in _sentences(lines):
        numbers = [w[0] for w in words]
        counted = len(words[0]) > 2 and any(
            numbers == list(map(str, range(start, start + len(words)))) for start in (0, 1)
        )
        word, tag = (_WORD, _TAG) if len(words[0]) == 10 else (1, 2) if counted else (0, -1)
        yield {"tokens": [w[word] for w in words], "tags": [w[tag] for w in words]}


def _sentences(lines: Iterable[str]) -> Iterator[list[list[str]]]:
    """Yield the fields of the words of each sentence; blank lines are between sentences."""
    words: list[list[str]] = []
    for line in chain(lines, [""]):
        fields = line.split("\t") if "\t" in line else line.split()
        if not any(fields) and words:
            yield words
            words = []
        elif any(fields) and fields[0] != _DOCUMENT and not _COMMENT.match(line):
            words += [fields] if fields[0].isdecimal() or len(fields) != 10 else []


def classes_of(urls: Sequence[str]) -> dict[str, str]:
    """Return the class that each file stands for, by its folder or its name, if these are words.

    If a class has several files, each file is a text; else each line is one.

    Example:
        >>> classes_of(["pos/1.txt", "pos/2.txt", "neg/1.txt"])
        {'pos/1.txt': 'pos', 'pos/2.txt': 'pos', 'neg/1.txt': 'neg'}
        >>> classes_of(["good.txt", "bad.txt"])
        {'good.txt': 'good', 'bad.txt': 'bad'}
        >>> classes_of(["part-1.txt", "part-2.txt"])
        {}
    """
    paths = [PurePosixPath(url) for url in urls]
    stems = [path.name.partition(".")[0] for path in paths]
    for names in ([path.parent.name for path in paths], stems):
        classes = set(names)
        if len(classes) > 1 and all(map(_WORDS.fullmatch, names)) and USUAL.isdisjoint(classes):
            return dict(zip(urls, names, strict=True))
    return {}
