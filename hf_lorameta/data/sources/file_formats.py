"""Tell the format of a local file by its name, or by how its lines look."""

import json
from contextlib import suppress
from pathlib import Path

from hf_lorameta.data.sources.formats import (
    COMPRESSIONS,
    FORMATS,
    UNREAD,
    FileFormat,
    ending,
    endings_of,
)
from hf_lorameta.data.sources.line_layouts import (
    first_lines,
    other_readings,
    refuse_other_layouts,
)
from hf_lorameta.data.sources.text_formats import is_binary
from hf_lorameta.data.sources.text_rows import is_tagged_or_labeled, separator_between
from hf_lorameta.errors import DatasetError

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
            code="file.unread-compression",
            hint=f"decompress it, and name {path.stem}",
        )
    refuse_other_start(path)
    lines = [] if form and form.separator is None and form.module != "text" else first_lines(path)
    if form and form.separator:
        refuse_other_layouts(path, lines, table=True)
        return FORMATS[".conll"] if is_tagged_or_labeled(lines) else form
    if form and form.module != "text":
        return form
    if lines and path.suffix.lower() not in UNREAD:
        if all(map(_is_object, filter(str.strip, lines))):
            return FORMATS[".jsonl"]
        if separator_between(lines) or is_tagged_or_labeled(lines):
            return form or FORMATS[".txt"]
        refuse_other_layouts(path, lines)
    if form:
        return form
    raise other_format(path)


def refuse_other_start(path: Path) -> None:
    """Refuse a file that does not begin as those of the format that its name states.

    Raises:
        DatasetError: it does not, or is what Git has for a file that was not downloaded.
    """
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise DatasetError(
            f"{path.name} is a pointer of Git LFS, not the file itself",
            code="file.lfs-pointer",
            hint="git lfs pull",
        )
    form = FORMATS.get(ending(path))
    endings = endings_of(start) if form else []
    is_text = form and form.may_be_compressed and path.suffix.lower() not in COMPRESSIONS
    if is_text and not endings and is_binary(start):
        raise DatasetError(
            f"{path.name} cannot be read: it is not text", code="file.not-text", hint=_TEXTS
        )
    if endings and path.suffix.lower() not in endings:
        raise DatasetError(
            f"{path.name} cannot be read: it begins as files in {', '.join(endings)} do",
            code="file.of-another-kind",
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
    advice = UNREAD.get(path.suffix.lower())
    hints = [advice.format(name=repr(str(path)))] if advice else []
    if not advice and path.is_file():
        hints = [*other_readings(path), _TEXTS]
    return DatasetError(
        f"{path} does not end in {', '.join(FORMATS)}",
        code="file.unknown-ending",
        hint=hints or _TEXTS,
    )
