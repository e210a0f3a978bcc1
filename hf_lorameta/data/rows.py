"""A dataset as a stream of (input, output) rows: where it lies, which columns are read, and how.

A dataset is a Hub id or a local jsonl, json, csv, tsv or parquet file. Its columns are found by
themselves for the layouts in `LAYOUTS`, and `PROMPTS` for datasets that hold nothing but inputs;
more than one reading is an error, never a guess.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hf_lorameta.data.columns import Columns
from hf_lorameta.errors import ColumnsError
from hf_lorameta.hub.dataset_repo import RawDataset
from hf_lorameta.types import Row

# --- rows ---------------------------------------------------------------------------------------


def read_rows(raw: RawDataset, columns: Columns) -> Iterator[Row]:
    """Yield (input, output) of every row; of a list of outputs, the first.

    Raises:
        ColumnsError: a cell holds neither text, number, list of texts nor chat turns.
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
    """Put an instruction before an input the way the default bank's datasets do.

    Example:
        >>> join_instruction("Name the animal.", "woof")
        'Name the animal.\\n\\nInput: woof\\nOutput:'
        >>> join_instruction("Name an animal.", "")
        'Name an animal.'
    """
    return (
        f"{instruction}\n\nInput: {text}\nOutput:" if instruction and text else instruction or text
    )


def _text(row: Mapping[str, Any], column: str | None, labels: Mapping[str, list[str]]) -> str:
    value = row.get(column) if column else None
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if isinstance(value, Mapping) and isinstance(value.get("text"), (list, str)):
        return _text(value, "text", {})  # SQuAD's answers
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and column and column in labels:
        return labels[column][value] if 0 <= value < len(labels[column]) else ""
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ColumnsError(
        f"column {column} holds {type(value).__name__}, expected text",
        hint="name a text column: --columns input=COLUMN,output=COLUMN",
    )


def _from_messages(turns: object) -> Iterator[Row]:
    """The last answer as output, all that was said before it as input."""
    if not isinstance(turns, (list, tuple)):
        return
    said = [_turn(turn) for turn in turns if isinstance(turn, Mapping)]
    answers = [i for i, (role, _) in enumerate(said) if role in ("assistant", "gpt", "model")]
    if not answers:
        yield "\n\n".join(text for _, text in said), ""
        return
    last = answers[-1]
    yield "\n\n".join(text for _, text in said[:last]), said[last][1]


def _turn(turn: Mapping[str, Any]) -> tuple[str, str]:
    role = str(turn.get("role") or turn.get("from") or "")
    content = turn.get("content") or turn.get("value") or ""
    if isinstance(content, (list, tuple)):  # parts, of which text is read
        content = "".join(str(p.get("text") or "") for p in content if isinstance(p, Mapping))
    return role, str(content)
