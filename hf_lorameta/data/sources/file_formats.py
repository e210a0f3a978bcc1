"""Tell the format of a local file by its name, or by how its lines look."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hf_lorameta.data.sources.formats import COMPRESSIONS, FORMATS, FileFormat, ending
from hf_lorameta.data.sources.raw_dataset import unpacked
from hf_lorameta.data.sources.text_formats import START, lines_of
from hf_lorameta.data.sources.text_rows import is_tagged_or_labeled, separator_between
from hf_lorameta.errors import DatasetError
from hf_lorameta.quoting import shell

_SHOWN_LINES = 64
"""Lines that show whether they begin with labels."""
_PAIRED_BYTES, _PAIRED_FILES, _PAIRED_LINES = 200_000_000, 50, 8
"""How much is read to find a file with as many lines, and fewest of a text file that may have."""
_MARK = re.compile(r"[|!:+$<>#^~_=@]{3,}")
_GROUPS, _LABELED = 6, 3
"""Fewest groups of lines, and how often a line of theirs occurs on average if it is a label."""
_TO_CSV = "to_csv('rows.csv', index=False)"
_THEN = f"hf_lorameta.plan(rows) in Python, or pandas.DataFrame(rows).{_TO_CSV}"
_ADVICE = {
    ".xlsm .xlsb .numbers": "save it as .xlsx or CSV",
    ".tar .tgz .7z .rar": "unpack it, and name a file or the folder",
    ".pdf .doc .docx .html .xml": "save its rows as CSV, or its texts as lines of a .txt file",
    ".yml .yaml": "for examples of intents (Rasa): rows = [{{'text': line[2:], 'intent': "
    "group['intent']}} for group in yaml.safe_load(pathlib.Path({name}).read_text())['nlu'] "
    "if 'intent' in group for line in group['examples'].splitlines()]; then {then}",
    ".tmx": "rows = [[''.join(seg.itertext()) for seg in unit.iter('seg')] for unit in "
    "xml.etree.ElementTree.parse({name}).iter('tu')]; then pandas.DataFrame(rows, columns=['source'"
    f", 'target']).{_TO_CSV}",
    ".m2": "write its original and its corrected sentences, one a line, with corr_from_m2.py of "
    "the BEA-2019 shared task, and join both: (printf 'input\\toutput\\n'; paste original.txt "
    "corrected.txt) > rows.tsv",
    ".chatito": "generate its examples: npx chatito {name} --format=rasa; the rows are in the list "
    "common_examples, with text and intent",
    ".md": "if each heading is a question: rows = [dict(zip(('question', 'answer'), part.split("
    "'\\n', 1))) for part in pathlib.Path({name}).read_text().split('\\n## ')[1:]]; then {then}",
}
_TEXTS = "save it as CSV or JSON lines, or add .txt to its name if each line is a text"


def format_of(path: Path) -> FileFormat:
    """Return the format of a file: by its ending, or by its lines if that states none but text.

    Raises:
        DatasetError: it is none of the formats that are read.
        OSError: it cannot be read.
    """
    form = FORMATS.get(ending(path))
    lines = [] if form and form.separator is None and form.reader != "text" else _first_lines(path)
    if form and form.separator and is_tagged_or_labeled(lines):
        return FORMATS[".conll"]
    if form and form.reader != "text":
        return form
    if lines and not _advice_on(path):
        if all(map(_is_object, filter(str.strip, lines))):
            return FORMATS[".jsonl"]
        if separator_between(lines) or is_tagged_or_labeled(lines):
            return form or FORMATS[".txt"]
        _refuse_other_tables(path, lines)
    if form:
        return form
    raise other_format(path)


def _refuse_other_tables(path: Path, lines: Sequence[str]) -> None:
    """Refuse lines with columns between several marks, and rows that are groups of lines.

    Raises:
        DatasetError: with the command that makes a table of them.
    """
    filled = [line for line in lines[:_SHOWN_LINES] if line.strip()]
    for mark in sorted(set(_MARK.findall(filled[0] if filled else ""))):
        several = len(set(mark)) > 1 or mark[0] == "|"
        if several and len(filled) > 1 and len({line.count(mark) for line in filled}) == 1:
            pattern = re.sub(r"([\\.*\[\]^$/])", r"\\\1", mark)
            command = shell("sed", rf"s/ *{pattern} */\t/g", str(path))
            raise DatasetError(
                f"{path.name}: each line has {mark} as often, as between columns",
                hint=f"{command} > rows.tsv, and name rows.tsv",
            )
    groups = [group.split("\n") for group in re.split(r"\n\s*\n", "\n".join(lines).strip())][:-1]
    if len(groups) < _GROUPS or len(sizes := set(map(len, groups))) > 1 or sizes == {1}:
        return
    if any(_LABELED * len(set(column)) <= len(groups) for column in zip(*groups, strict=True)):
        awk = 'BEGIN { RS = ""; FS = "\\n"; OFS = "\\t" } { $1 = $1 } 1'
        raise DatasetError(
            f"{path.name}: its lines are in groups of {sizes.pop()}, as rows are",
            hint=f"{shell('awk', awk, str(path))} > rows.tsv, and name rows.tsv",
        )


def _first_lines(path: Path) -> list[str]:
    """Return whole lines of a text file's start; none of a file that is not text."""
    packed = path.suffix.lower() in COMPRESSIONS
    with unpacked(str(path)) if packed else path.open("rb") as file:
        return lines_of(file.read(START))


def _is_object(line: str) -> bool:
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(line), dict)
    return False


def other_format(path: Path) -> DatasetError:
    """Return the error for a file of a format that is not read, with what to do with it.

    Example:
        >>> other_format(Path("rows.7z")).hint
        'unpack it, and name a file or the folder'
    """
    advice = _advice_on(path)
    hints = [advice.format(name=repr(str(path)), then=_THEN)]
    if not advice and path.is_file():
        hints = [*join_with(path), *_split_labels(path), _TEXTS]
    return DatasetError(
        f"{path} does not end in {', '.join(FORMATS)}", hint=hints if any(hints) else _TEXTS
    )


def _advice_on(path: Path) -> str:
    """Return what to do with a file whose ending states a format that is not read."""
    kind = path.suffix.lower() or "none"
    return next((advice for kinds, advice in _ADVICE.items() if kind in kinds.split()), "")


def join_with(path: Path) -> list[str]:
    """Return the command that joins a text file with those that are called alike and as long.

    Such are ``dev.src`` and ``dev.ref0``, ``dev.ref1``, …: a line of one belongs to a line of the
    others. Of ``.txt`` files, which may have any name, those with at least `_PAIRED_LINES` count.
    """
    if not _first_lines(path) or not (count := _line_count(path)):
        return []
    is_text, start = ending(path) in FORMATS, path.name.partition(".")[0]
    if is_text and count < _PAIRED_LINES:
        return []
    alike: dict[str, list[Path]] = {}
    for other in sorted(path.parent.glob("*.txt" if is_text else f"{start}.*"))[:_PAIRED_FILES]:
        same = other != path and (ending(other) in FORMATS) == is_text
        if same and _line_count(other) == count:
            alike.setdefault(re.sub(r"\d", "", other.name), []).append(other)
    if not alike:
        return []
    others = max(alike.values(), key=len)
    names = ["output"] if len(others) == 1 else [f"ref{n}" for n in range(1, len(others) + 1)]
    head, files = r"\t".join(["input", *names]), map(str, (path, *others))
    return [
        f"if its lines are inputs, and those of {', '.join(o.name for o in others)} their outputs: "
        f"(printf '{head}\\n'; {shell('paste', *files)}) > rows.tsv, and name rows.tsv"
    ]


def _split_labels(path: Path) -> list[str]:
    """Return the command that makes a table of lines that may begin with their labels."""
    starts = [
        line.split()[0] for line in _first_lines(path)[:_SHOWN_LINES] if len(line.split()) > 2
    ]
    if not 1 < len(set(starts)) <= len(starts) / 2:
        return []
    command = shell("sed", r"s/ /\t/", str(path))
    return [f"if each line begins with its label: {command} > rows.tsv, and name rows.tsv"]


def _line_count(path: Path) -> int:
    if not path.is_file() or path.stat().st_size > _PAIRED_BYTES:
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(START), b""))
