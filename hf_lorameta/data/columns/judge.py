"""Whether the rows that columns make can teach a model anything, judged by the rows of a sample."""

import re
from collections.abc import Iterator, Sequence

from hf_lorameta.data.columns import names as known
from hf_lorameta.data.columns.cells import texts_in, value_at
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.table_view import LEAST_ROWS, TableView, normalized

_LETTER = re.compile(r"[^\W\d_]")
_FILE = re.compile(
    r"\S*[\w)]\.[a-z]{2,4}\d?|[0-9a-f]{16,}|[0-9a-f]+(-[0-9a-f]+){3,}", re.IGNORECASE
)
_MOST = 0.5


def objection(table: TableView, columns: Columns) -> str:
    """Return what speaks against a reading, as a code; empty if nothing does.

    ``no-words``: most texts have no letter. ``files``: they are names of files, or hashes.
    ``labels-alone``: few short values, with nothing that they belong to, or as the only input of
    others.

    Example:
        >>> rows = [{"plot": f"{i} 0.4{i} 0.7", "name": f"{i}.jpg"} for i in range(8)]
        >>> table = TableView(["plot", "name"], {}, rows)
        >>> objection(table, Columns(output="plot")), objection(table, Columns(output="name"))
        ('no-words', 'files')
    """
    if columns.messages or not table.sample:
        return ""
    alone = not columns.input
    named = set(map(normalized, columns.named("input"))) & {*known.INPUTS, *known.QUESTIONS}
    read = columns.named("input") or columns.named("output")
    texts = [" ".join(_texts(table, read, row)).strip() for row in range(len(table.sample))]
    texts = [text for text in texts if text]
    if not texts or named:
        return ""
    if _share(bool(_LETTER.search(text)) for text in texts) < _MOST:
        return "no-words"
    if _share(bool(_FILE.fullmatch(text)) for text in texts) > _MOST:
        return "files"
    outputs = [] if alone else table.values(columns.answer)
    if outputs and _share(bool(_FILE.fullmatch(str(value))) for value in outputs) > _MOST:
        return "files"
    if len(texts) < LEAST_ROWS:
        return ""
    repeats = len(read) == 1 and table.repeats(read[0]) and not any("\n" in t for t in texts)
    if repeats and not columns.choices:
        is_text = normalized(read[0]) in known.TEXTS or table.holds_sentences(read[0])
        return "" if is_text else "labels-alone"
    return ""


def _texts(table: TableView, paths: Sequence[str], row: int) -> Iterator[str]:
    for path in paths:
        value = value_at(table.sample[row], path)
        found = list(texts_in(value))
        yield from found or ([str(value)] if isinstance(value, (int, float)) else [])


def _share(found: Iterator[bool]) -> float:
    values = list(found)
    return sum(values) / max(len(values), 1)
