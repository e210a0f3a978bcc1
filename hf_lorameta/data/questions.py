"""Rows to be answered, read as an adapter's recipe says, with or without outputs."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from hf_lorameta.data.columns.cells import value_at
from hf_lorameta.data.columns.columns import Columns, require_columns
from hf_lorameta.data.columns.conversations import conversation_sides, conversation_turns
from hf_lorameta.data.columns.layouts import find_columns, likely_columns
from hf_lorameta.data.columns.rows import RowReader
from hf_lorameta.data.columns.table_view import TableView
from hf_lorameta.data.dataset import open_rows
from hf_lorameta.data.reading import Reading
from hf_lorameta.data.sources.raw_dataset import RawDataset
from hf_lorameta.data.sources.reading_limits import cut
from hf_lorameta.data.unfolding import unfolded
from hf_lorameta.errors import ColumnsError, Option
from hf_lorameta.hub.client import Hub


class Question(NamedTuple):
    """What a row asks.

    Attributes:
        prompt: in the form that the adapter was made for; empty if the row has no input.
        choices: the possible answers to this row alone, if it states some.
    """

    prompt: str
    choices: tuple[str, ...] = ()


class Questions(NamedTuple):
    """Rows of a dataset that are to be answered.

    Attributes:
        raw: as the files have them.
        columns: that they are read with.
        reader: reads them.
    """

    raw: RawDataset
    columns: Columns
    reader: RowReader

    def of(self, row: Mapping[str, Any]) -> Question:
        """Return what a row asks; of a conversation, the answer to its last turn."""
        if name := self.columns.messages:
            row = {**row, name: _open_end(value_at(row, name))}
        if not self.reader.has_input(row):
            return Question("")
        return Question(cut(self.reader.read(row)[0]), tuple(self.reader.choices(row)))


def open_questions(name: Any, recorded: Columns | None, hub: Hub, reading: Reading) -> Questions:
    """Open rows to answer.

    Args:
        name: as for `hf_lorameta.open_dataset`; or a list of texts, each an input.
        recorded: how the adapter's own rows were read; None if that is not known.
        hub: the client.
        reading: as for `hf_lorameta.open_dataset`. What is not given comes from `recorded`.

    Raises:
        ColumnsError: a column of the inputs is missing.
        LoraMetaError: as `hf_lorameta.open_dataset` raises.
    """
    if isinstance(name, list) and name and all(isinstance(text, str) for text in name):
        input_column = recorded.named("input")[0] if recorded and recorded.input else "input"
        name = [{input_column: text} for text in name]
    raw = open_rows(name, hub, reading)
    table = TableView(raw.columns, raw.labels, raw.sample)
    given = reading.columns
    columns = given or recorded or _found(table)
    if given and recorded:
        shared = {"instruction_text", "template", "chat"}
        columns = given.model_copy(update=recorded.model_dump(include=shared, exclude_none=True))
    columns = columns.with_prompt(reading.instruction, reading.template)
    raw = unfolded(raw, columns)
    unlabeled = columns.model_copy(update={"output": None})
    require_columns(unlabeled, raw.columns, partial(_inputs, table))
    return Questions(raw, unlabeled, RowReader(raw, columns if columns.choices else unlabeled))


def _inputs(table: TableView) -> Columns | None:
    """Return the input columns that are likely meant, if any."""
    if len(table.names) == 1:
        return Columns(input=table.names[0])
    likely = likely_columns(table)
    inputs = likely and likely.model_copy(update={"output": None})
    return inputs if inputs and inputs.names() else None


def _found(table: TableView) -> Columns:
    """Find the inputs of a dataset for an adapter that does not say how its rows were read."""
    if len(table.names) == 1:
        return Columns(input=table.names[0])
    try:
        return find_columns(table)
    except ColumnsError as error:
        error.option = Option("columns", "input=COLUMN")
        raise


def _open_end(value: Any) -> Any:
    """Return a conversation that ends with a question as one that ends with an empty answer.

    Example:
        >>> _open_end([{"role": "user", "content": "Why?"}])[-1]
        {'role': 'assistant', 'content': ''}
    """
    if not isinstance(value, (list, tuple)) or not conversation_turns(value):
        return value
    sides = conversation_sides(value)
    if not sides or sides[-1][0] == "assistant":
        return value
    return [*value, {"role": "assistant", "content": ""}]
