"""Text files whose rows are not lines: a token in each line (CoNLL), and pairs of files."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any

from hf_lorameta.errors import DatasetError

_LINES = 500
"""Lines that show whether a file has a token in each."""
_MOST_FIELDS, _MOST_TAGS = 6, 100
_DOCUMENT = "-DOCSTART-"
_TAG = re.compile(r"[A-Z][A-Z0-9$_]{0,9}|[BIESLU]-\S+|[^\w\s]{1,4}|-[LR]RB-")
_LANGUAGE = re.compile(r"\.[a-z]{2}(?:[-_][A-Za-z]{2,4})?")


# --- a token in each line -------------------------------------------------------------------------


def is_tagged(lines: Sequence[str]) -> bool:
    """Whether the first lines of a file are tokens with tags, and blank lines between sentences.

    Example:
        >>> lines = ["EU B-ORG", "rejects O", "calls O", "", "Peter B-PER", "smiles O", ""]
        >>> is_tagged(lines), is_tagged(["It rains", "again today"])
        (True, False)
    """
    sentences = [[line.split() for line in sentence] for sentence in _sentences(lines)]
    tokens = [fields for sentence in sentences for fields in sentence]
    if len(sentences) < 2 or max(map(len, sentences)) < 3:
        return False
    count, tags = len(tokens[0]), {fields[-1] for fields in tokens}
    even = 2 <= count <= _MOST_FIELDS and all(len(fields) == count for fields in tokens)
    return even and len(tags) <= _MOST_TAGS and all(map(_TAG.fullmatch, tags))


def tagged_rows(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Yield the sentences of such a file, and what the lines of their tokens end with as tags.

    Example:
        >>> list(tagged_rows(iter(["EU NNP B-ORG", "rejects VBZ O"])))
        [{'text': 'EU rejects', 'tags': 'B-ORG O'}]
    """
    for sentence in _sentences(lines):
        fields = [line.split() for line in sentence]
        yield {"text": " ".join(f[0] for f in fields), "tags": " ".join(f[-1] for f in fields)}


def _sentences(lines: Iterator[str] | Sequence[str]) -> Iterator[list[str]]:
    told = (line for line in lines if not line.startswith(_DOCUMENT))
    for blank, sentence in groupby(told, key=lambda line: not line.strip()):
        if not blank:
            yield list(sentence)


def first_lines(file: IO[str]) -> list[str]:
    """Return the lines that tell, see `is_tagged`."""
    return list(islice(file, _LINES))


# --- two files of parallel lines ------------------------------------------------------------------


def pair_of(text: str) -> list[Path]:
    """Return the files of a name such as ``val.en,val.de``; none if it is not one.

    Example:
        >>> pair_of("no-such.en,no-such.de")
        []
    """
    paths = [Path(part).expanduser() for part in text.split(",")]
    return paths if is_pair(paths) and all(path.is_file() for path in paths) else []


def is_pair(paths: Sequence[Path]) -> bool:
    """Whether two files have the same name, and languages as endings.

    Example:
        >>> is_pair([Path("val.en"), Path("val.de")]), is_pair([Path("a.en"), Path("b.de")])
        (True, False)
    """
    if len(paths) != 2 or paths[0].suffix == paths[1].suffix:
        return False
    same = paths[0].with_suffix("") == paths[1].with_suffix("")
    return same and all(_LANGUAGE.fullmatch(path.suffix) for path in paths)


def other_language(path: Path) -> Path | None:
    """Return the file beside another one that makes a pair with it, if there is exactly one."""
    others = [other for other in path.parent.glob(f"{path.stem}.*") if is_pair([path, other])]
    return others[0] if len(others) == 1 else None


def paired_rows(paths: Sequence[Path], files: Sequence[IO[str]]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a pair side by side, each named by its language.

    Raises:
        DatasetError: one file has more lines than the other.
    """
    names = [path.suffix.removeprefix(".") for path in paths]
    try:
        for lines in zip(*files, strict=True):
            yield dict(zip(names, (line.rstrip("\r\n") for line in lines), strict=True))
    except ValueError:
        raise DatasetError(
            f"{paths[0]} and {paths[1]} have different numbers of lines",
            hint="name two files whose lines belong together",
        ) from None
