"""The first rows of a dataset as they are read, and what a user should know of them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_lorameta.data.columns.cells import value_at
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.conversations import unknown_roles
from hf_lorameta.data.columns.rows import RowReader
from hf_lorameta.data.columns.table_view import TableView
from hf_lorameta.data.sources.raw_dataset import RawDataset
from hf_lorameta.errors import ColumnsError, EmptyDatasetError, Option
from hf_lorameta.remarks import Level, Remark
from hf_lorameta.types import Row

_NUMBER = re.compile(r"[-+−$€]?\d[\d.,\s]*%?")
_LEAST = 4
"""Fewest rows whose outputs are compared."""
_FEW_BLANK = 0.1
"""Share of blank inputs, up to which an adapter may still be called likely to help."""


def read_first_rows(raw: RawDataset, reader: RowReader) -> tuple[list[Row], list[Remark]]:
    """Return the rows of the sample as they are read, and the remarks on them.

    Raises:
        EmptyDatasetError: rows have outputs, and their inputs are blank.
        ColumnsError: no row has an output that can be read.
    """
    sample = [row for row in raw.sample if not reader.is_bad(row)] or raw.sample
    rows = [reader.read(row) for row in sample]
    has_inputs = bool(reader.columns.input or reader.columns.messages)
    if has_inputs:
        _require_inputs(reader, sample, rows)
    _require_outputs(reader, rows)
    blank = sum(not reader.has_input(row) for row in sample) if has_inputs else 0
    remarks = [*raw.remarks, *_notes(raw, reader, sample)]
    if blank:
        text = f"Blank inputs among the first {len(rows)}: {blank}."
        level: Level = "doubt" if blank > _FEW_BLANK * len(rows) else "note"
        remarks.append(Remark(level, text, code="inputs.blank"))
    remarks += doubts(raw.sample, rows)
    return [row for row in rows if row[1]] or rows, remarks


def _require_inputs(
    reader: RowReader, sample: Sequence[Mapping[str, Any]], rows: Sequence[Row]
) -> None:
    labeled = [source for source, row in zip(sample, rows, strict=True) if row[1].strip()]
    if labeled and not any(map(reader.has_input, labeled)):
        raise EmptyDatasetError(
            f"the inputs of the first {len(labeled)} rows are blank, as {reader.columns} reads "
            "them",
            code="inputs.all-blank",
            hint="name columns with texts",
        )


def _require_outputs(reader: RowReader, rows: Sequence[Row]) -> None:
    columns = reader.columns
    if not any(output.strip() for _, output in rows) and (why := reader.unread_outputs()):
        other = Option("columns", f"input={','.join(columns.named('input'))},output=COLUMN")
        raise ColumnsError(
            f"{columns} reads no output of the first {len(rows)} rows: {why}",
            code="outputs.unread",
            hint="rename the role of the answers to assistant" if columns.messages else other,
        )


def _notes(
    raw: RawDataset, reader: RowReader, sample: Sequence[Mapping[str, Any]]
) -> Iterator[Remark]:
    """Yield how the rows of a sample are read, where their columns alone do not say it."""
    columns = reader.columns
    first = f"of the first {len(sample)}"
    if columns.messages:
        answering, _ = unknown_roles([value_at(row, columns.messages) for row in sample])
        if answering:
            text = f"Turns of {', '.join(sorted(answering))} are read as the answers."
            yield Remark("note", text, code="columns.answering-roles")
    if name := reader.verdict:
        refused = dict.fromkeys(str(row[name]).lower() for row in raw.sample if reader.is_bad(row))
        listed = " or ".join(refused) or "false"
        text = f"Rows with {listed} in column {name} are left out as bad examples."
        yield Remark("note", text, code="rows.bad-left-out")
    output = columns.answer
    if not columns.choices and TableView(raw.columns, raw.labels, raw.sample).holds_codes(output):
        of_classes = "if they stand for classes, a model learns more from the names of these"
        text = f"Column {output} holds numbers: {of_classes}."
        yield Remark("note", text, code="outputs.numbers")
    if reader.form == "several":
        text = "Some rows have several labels: they are read in a fixed order, with commas."
        yield Remark("note", text, code="labels.several")
    if respelled := reader.labels.respelled:
        yield Remark(
            "note",
            f"{respelled} {first} labels differ from others only in case or "
            "space: all are read in the most frequent spelling.",
            code="labels.respelled",
        )
    if ended := sum(map(reader.ends_in_token, sample)):
        text = f"{ended} {first} outputs end in a token such as <|endoftext|>, which is left out."
        yield Remark("note", text, code="outputs.end-token")
    if unknown := sum(map(reader.is_unknown, raw.sample)):
        yield Remark(
            "note",
            f"{unknown} {first} rows have the label {reader.unknown}, which stands for no label: "
            "they are left out.",
            code="labels.unknown-left-out",
        )
    if several := sum(map(bool, map(reader.other_outputs, raw.sample))):
        yield Remark(
            "note",
            f"{several} {first} rows hold several outputs: the first of each is trained on, and "
            f"any of them is a right answer.{_advice_to_join(columns)}",
            code="outputs.several",
        )


def _advice_to_join(columns: Columns) -> str:
    """Return which columns join several outputs; nothing if they are not in a column."""
    if not columns.answer:
        return ""
    joined = columns.model_copy(update={"output": f"{columns.answer}.*"})
    return f" To join them, read the columns {joined}."


def doubts(raw: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> Iterator[Remark]:
    """Yield why a text model may be unable to answer from the inputs, without quoting them.

    Args:
        raw: the first rows as the files have them.
        rows: the same rows as they are read.

    Example:
        >>> rows = [(f"{n} + {n} =", f"{2 * n}") for n in range(4)]
        >>> print(*doubts([], rows))
        The outputs are all different numbers, which such small models rarely compute.
    """
    if any(_is_image(value) for row in raw for value in row.values()):
        text = "The dataset holds images, which are not read."
        yield Remark("doubt", text, code="inputs.images")
    outputs = [output.strip() for _, output in rows if output.strip()]
    different = len(outputs) >= _LEAST and len(set(outputs)) == len(outputs)
    if different and all(map(_NUMBER.fullmatch, outputs)):
        text = "The outputs are all different numbers, which such small models rarely compute."
        yield Remark("doubt", text, code="outputs.all-numbers")


def _is_image(value: object) -> bool:
    """Whether a value is an image: of the library `datasets`, not decoded, or of PIL."""
    stored = isinstance(value, Mapping) and {"bytes", "path"} <= value.keys()
    return stored or type(value).__module__.partition(".")[0] == "PIL"
