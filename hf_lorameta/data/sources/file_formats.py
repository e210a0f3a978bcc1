"""Tell the format of a local file by its name, or by how its lines look."""

import json
from contextlib import suppress
from pathlib import Path

from hf_lorameta.data.sources.formats import COMPRESSIONS, FORMATS, FileFormat, ending
from hf_lorameta.data.sources.line_layouts import (
    first_lines,
    other_readings,
    refuse_other_layouts,
)
from hf_lorameta.data.sources.text_rows import is_tagged_or_labeled, separator_between
from hf_lorameta.errors import DatasetError

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
_STARTS = {
    b"PK\x03\x04": (".zip", ".xlsx", ".xls", ".ods"),
    b"\xd0\xcf\x11\xe0": (".xls", ".xlsx", ".ods"),
    b"PAR1": (".parquet",),
    b"SQLite format 3\0": (".sqlite", ".sqlite3", ".db"),
    b"\x1f\x8b": (".gz",),
}
"""How files begin that are not text, by the endings that their names may have."""
_POINTER = b"version https://git-lfs"
_TEXTS = "save it as CSV or JSON lines, or add .txt to its name if each line is a text"


def format_of(path: Path) -> FileFormat:
    """Return the format of a file: by its ending, or by its lines if that states none but text.

    Raises:
        DatasetError: it is none of the formats that are read, or one that is not read compressed.
        OSError: it cannot be read.
    """
    form = FORMATS.get(ending(path))
    if form and path.suffix.lower() in COMPRESSIONS and not form.may_be_compressed:
        raise DatasetError(
            f"{path.name}: compressed files of the format {ending(path)} are not read",
            hint=f"decompress it, and name {path.stem}",
        )
    refuse_other_start(path)
    lines = [] if form and form.separator is None and form.module != "text" else first_lines(path)
    if form and form.separator:
        refuse_other_layouts(path, lines, table=True)
        return FORMATS[".conll"] if is_tagged_or_labeled(lines) else form
    if form and form.module != "text":
        return form
    if lines and not _advice_on(path):
        if all(map(_is_object, filter(str.strip, lines))):
            return FORMATS[".jsonl"]
        if separator_between(lines) or is_tagged_or_labeled(lines):
            return form or FORMATS[".txt"]
        refuse_other_layouts(path, lines)
    if form:
        return form
    raise other_format(path)


def refuse_other_start(path: Path) -> None:
    """Refuse a file that begins like those of another format than its name states.

    Raises:
        DatasetError: it does, or is what Git has for a file that was not downloaded.
    """
    form = FORMATS.get(ending(path))
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise DatasetError(
            f"{path.name} is a pointer of Git LFS, not the file itself", hint="git lfs pull"
        )
    for mark, endings in _STARTS.items() if form else ():
        if start.startswith(mark) and path.suffix.lower() not in endings:
            raise DatasetError(
                f"{path.name} cannot be read: it begins as files in {', '.join(endings)} do",
                hint=["end its name in one of these", "save it again"],
            )


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
        hints = [*other_readings(path), _TEXTS]
    return DatasetError(
        f"{path} does not end in {', '.join(FORMATS)}", hint=hints if any(hints) else _TEXTS
    )


def _advice_on(path: Path) -> str:
    """Return what to do with a file whose ending states a format that is not read."""
    kind = path.suffix.lower() or "none"
    return next((advice for kinds, advice in _ADVICE.items() if kind in kinds.split()), "")
