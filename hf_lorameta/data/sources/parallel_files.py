"""Text files whose lines belong together, such as ``train.src`` and ``train.tgt``, as one table.

Files are taken together if they have equally many lines, and either names of columns or lines whose
lengths rise and fall together, as those of translations do. Others stand for a class each.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from hf_lorameta.data.sources.formats import COMPRESSIONS, FORMATS, ending
from hf_lorameta.data.sources.split_names import USUAL
from hf_lorameta.data.sources.text_formats import encoding_of
from hf_lorameta.data.sources.text_rows import repeat

Group = dict[str, Path]
"""The files of a split by the names of their columns."""
_COLUMNS = {
    "input", "output", "source", "src", "target", "tgt", "trg", "text", "texts", "label", "labels",
    "sentence", "sentences", "tag", "tags", "question", "questions", "answer", "answers", "orig",
    "original", "simp", "simple", "ref", "reference", "summary", "document", "article", "corrected",
    "correct", "incorrect", "seq", "context", "response", "premise", "hypothesis",
}  # fmt: skip
_CLASSES = {
    "pos", "neg", "neu", "positive", "negative", "neutral", "ham", "spam", "good", "bad", "true",
    "false", "yes", "no", "real", "fake", "human", "ai", "male", "female", "toxic", "safe",
}  # fmt: skip
_OTHERS = {"readme", "license", "mapping", "vocab", "requirements", "classes"}
_SHORT = {"orig": "original", "simp": "simplification", "trg": "tgt"}
_LEAST, _LOOK, _ALIKE = 8, 256, 0.5
"""Fewest lines, how many of them are compared, and least correlation of their lengths."""
_MOST_BYTES, _MOST_FILES = 200_000_000, 64


def parallel_files(files: Sequence[Path]) -> dict[str, Group]:
    """Return the groups of files whose lines belong together, by split; nothing if there are none.

    Args:
        files: all files of a folder, or those that are named.
    """
    texts = [path for path in files if _may_be_text(path)]
    if not 1 < len(texts) <= _MOST_FILES or len({path.parent for path in texts}) > len(USUAL):
        return {}
    found = dict[str, list[Path]]()
    for path in texts:
        split = next((word for word in _words(path.name) if word in USUAL), "")
        split = split or (
            path.parent.name.lower() if path.parent.name.lower() in USUAL else "train"
        )
        found.setdefault(split, []).append(path)
    groups = {split: _group(paths) for split, paths in found.items()}
    groups = {split: group for split, group in groups.items() if group}
    names = [tuple(group) for group in groups.values()]
    read = {path for group in groups.values() for path in group.values()}
    left = [path for path in texts if path not in read and _line_count(path) >= _LEAST]
    return groups if groups and len(set(names)) == 1 and len(left) < len(read) else {}


def files_of(groups: Mapping[str, Group]) -> list[Path]:
    """Return all files of groups, in the order of their columns."""
    return [path for group in groups.values() for path in group.values()]


def rows_of_files(group: Mapping[str, Path]) -> Iterator[dict[str, str]]:
    """Yield a row of each line, with a column for each file."""
    streams = [_lines(path) for path in group.values()]
    for cells in zip(*streams, strict=True):
        yield dict(zip(group, cells, strict=True))


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        encoding = encoding_of(file, name=path.name)
    with path.open(encoding=encoding, newline="\n") as text:
        yield from (line.rstrip("\r\n") for line in text)


def _may_be_text(path: Path) -> bool:
    """Whether a file has lines of text, rather than rows of another format, or a README's."""
    form, words = FORMATS.get(ending(path)), set(_words(path.name))
    others = path.suffix.lower() in (*COMPRESSIONS, ".md", ".py", ".sh", ".yaml", ".yml", ".ann")
    if (form and form.module != "text") or others or words & _OTHERS:
        return False
    with path.open("rb") as file:
        return b"\0" not in file.read(1024) and path.stat().st_size <= _MOST_BYTES


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^\w]+|_", name.lower().removesuffix(".txt")) if word]


def _group(paths: Sequence[Path]) -> Group:
    """Return files by the names of their columns if their lines belong together, else nothing."""
    counts = {path: _line_count(path) for path in paths}
    most = max(counts.values())
    together = [path for path in sorted(paths) if counts[path] == most >= _LEAST]
    words = {path: [w for w in _words(path.name) if w not in USUAL] for path in together}
    shared = set.intersection(*map(set, words.values())) if words else set()
    names = {path: "_".join(w for w in words[path] if w not in shared) for path in together}
    if len(together) < 2 or len(set(names.values())) < len(names):
        return {}
    if _CLASSES.issuperset(names.values()):
        return {}
    starts = {path: list(islice(_lines(path), _LOOK)) for path in together}
    labels = [path for path in together if repeat(starts[path])]
    if len(labels) == len(together):
        return {}
    known = sum(bool(_COLUMNS.intersection(names[path].split("_"))) for path in together)
    if known < 2 and not (known and labels) and not _rise_together(list(starts.values())):
        return {}
    return {_column(names[path], path in labels): path for path in together}


def _column(name: str, is_label: bool) -> str:
    """Return the name of a column for what the names of files differ in.

    Example:
        >>> _column("simp_0", False), _column("110", False), _column("orig", False)
        ('simplification_0', 'text', 'original')
    """
    parts = [_SHORT.get(word, word) for word in name.split("_")]
    if not any(map(str.isalpha, parts)):
        return "label" if is_label else "text"
    return "_".join(parts)


def _rise_together(starts: Sequence[Sequence[str]]) -> bool:
    """Whether the lengths of lines correlate with those of the first file.

    Example:
        >>> lines = ["a" * (7 * i % 40) for i in range(40)]
        >>> _rise_together([lines, [2 * line for line in lines]])
        True
        >>> _rise_together([lines, sorted(lines)])
        False
    """
    first, *others = ([len(line) for line in lines] for lines in starts)
    if np.std(first) == 0 or any(np.std(lengths) == 0 for lengths in others):
        return False
    return all(np.corrcoef(first, lengths)[0, 1] >= _ALIKE for lengths in others)


def _line_count(path: Path) -> int:
    """Return the number of lines, of which the last may lack its end."""
    with path.open("rb") as file:
        end, count = b"\n", 0
        for block in iter(lambda: file.read(1 << 20), b""):
            count, end = count + block.count(b"\n"), block[-1:]
    return count + (end != b"\n")
