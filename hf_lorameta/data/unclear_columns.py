"""Ask for the columns to read, with a proposal, where they are not clear."""

from hf_lorameta.data.column_names import CODE, NOT_MEANT, OUTPUTS, WEAK_OUTPUTS
from hf_lorameta.data.columns import Columns, columns_option
from hf_lorameta.data.roles import is_output
from hf_lorameta.data.table_view import TableView, normalized
from hf_lorameta.errors import ColumnsError, DatasetError


def unclear(
    table: TableView,
    problem: str,
    proposal: Columns | None,
    kind: type[DatasetError] = ColumnsError,
    advice: str = "name the columns to read",
) -> DatasetError:
    """Return the error for columns that are not clear, with a proposal."""
    if proposal is None:
        fields = "--columns input=COLUMN.FIELD,output=COLUMN.FIELD"
        hint = f"choose a dataset with texts, or {advice} and their fields: {fields}"
    else:
        hint = f"{advice}: {columns_option(proposal)}"
    error = kind(f"{problem}; all columns: {', '.join(table.names)}", hint=hint)
    error.columns = proposal
    return error


def guess_columns(table: TableView) -> Columns | None:
    """Guess columns for a proposal: outputs repeat or are named so, and the longest is the input.

    Returns:
        None if no column holds text.
    """
    texts = [n for n in table.usable if table.kind(n) in ("text", "list", "turns")]
    texts = [n for n in texts if normalized(n) not in NOT_MEANT] or texts
    texts = [n for n in texts if table.holds_words(n) or table.repeats(n)] or texts
    outputs = table.named((*OUTPUTS, *CODE, *WEAK_OUTPUTS))
    outputs = [n for n in outputs if n in table.usable and is_output(table, n)]
    outputs += [n for n in table.usable if table.repeats(n)]
    if len(texts) == 1 and not [n for n in outputs if n not in texts]:
        return Columns(output=texts[0])
    output = next((n for n in outputs if [t for t in texts if t != n]), None)
    output = output or (texts[-1] if texts else None)
    inputs = sorted((n for n in texts if n != output), key=table.mean_length)
    if not inputs or not output:
        return None
    return Columns(input=inputs[-1], output=table.text_field(output))
