"""Convert the rows of a dataset to (input, output) pairs of text."""

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from hf_lorameta.data.columns import Columns
from hf_lorameta.errors import ColumnsError
from hf_lorameta.hub.dataset_repo import RawDataset
from hf_lorameta.types import Row


def read_rows(raw: RawDataset, columns: Columns) -> Iterator[Row]:
    """Yield the (input, output) pair of each row.

    Numbers and booleans become text, class labels their names, a list its first element, and a
    missing value the empty string. Of chat turns, the last answer is the output and all turns
    before it are the input.
    """
    for row in raw.rows():
        if columns.messages:
            yield from _from_messages(row.get(columns.messages))
            continue
        output = _text(row, columns.output, raw.labels)
        prompt = _text(row, columns.input, raw.labels)
        if columns.instruction:
            prompt = join_instruction(_text(row, columns.instruction, raw.labels), prompt)
        yield prompt, output


def join_instruction(instruction: str, text: str) -> str:
    """Put an instruction before an input in the format of the default bank's datasets.

    Example:
        >>> join_instruction("Name the animal.", "woof")
        'Name the animal.\\n\\nInput: woof\\nOutput:'
    """
    both = instruction and text
    return f"{instruction}\n\nInput: {text}\nOutput:" if both else instruction or text


def _text(row: Mapping[str, Any], column: str | None, labels: Mapping[str, list[str]]) -> str:
    value = row.get(column) if column else None
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if isinstance(value, Mapping) and isinstance(value.get("text"), (list, str)):
        return _text(value, "text", {})  # answers of SQuAD
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and column and column in labels:
        return labels[column][value] if 0 <= value < len(labels[column]) else ""
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return _moment(value)
    raise ColumnsError(
        f"column {column} contains {type(value).__name__}, expected text",
        hint="name a text column: --columns input=COLUMN,output=COLUMN",
    )


def _moment(value: datetime.date | datetime.time) -> str:
    """Return a date or time as ISO 8601 text, without a time that is midnight.

    `datasets` reads a JSON column of texts like 2024-07-23 as timestamps.

    Example:
        >>> _moment(datetime.datetime(2024, 7, 23)), _moment(datetime.datetime(2024, 7, 23, 8, 30))
        ('2024-07-23', '2024-07-23 08:30:00')
    """
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat(sep=" ")
    return value.isoformat()


def _from_messages(turns: object) -> Iterator[Row]:
    if not isinstance(turns, (list, tuple)):
        return
    parsed = [_turn(turn) for turn in turns if isinstance(turn, Mapping)]
    texts = [text for _, text in parsed]
    answers = [i for i, (role, _) in enumerate(parsed) if role in ("assistant", "gpt", "model")]
    last = answers[-1] if answers else len(texts)
    yield "\n\n".join(texts[:last]), texts[last] if answers else ""


def _turn(turn: Mapping[str, Any]) -> tuple[str, str]:
    role = str(turn.get("role") or turn.get("from") or "")
    content = turn.get("content") or turn.get("value") or ""
    if isinstance(content, (list, tuple)):  # text and image parts
        content = "".join(str(p.get("text") or "") for p in content if isinstance(p, Mapping))
    return role, str(content)
