"""Ask for the columns to read, with a proposal, where they are not clear."""

from collections.abc import Sequence

from hf_lorameta.data.column_names import CODE, NOT_MEANT, OUTPUTS, WEAK_OUTPUTS
from hf_lorameta.data.columns import Columns, columns_option
from hf_lorameta.data.roles import compared_pair, is_output
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
    if all(map(table.repeats, texts)):
        texts += [n for n in table.usable if table.text_field(n) != n]
    texts = [n for n in texts if not NOT_MEANT.fullmatch(normalized(n))] or texts
    texts = [n for n in texts if table.holds_words(n) or table.repeats(n)] or texts
    outputs = table.named((*OUTPUTS, *CODE, *WEAK_OUTPUTS))
    outputs = [n for n in outputs if n in table.usable and is_output(table, n)]
    outputs = [n for n in outputs if table.kind(n) != "list" or table.has_text(n)]
    outputs += [n for n in table.usable if table.repeats(n)]
    if len(texts) == 1 and not [n for n in outputs if n not in texts]:
        return Columns(output=texts[0])
    output = next((n for n in outputs if [t for t in texts if t != n]), None)
    output = output or (texts[-1] if texts else None)
    inputs = [n for n in texts if n != output]
    if not inputs or not output:
        return None
    read = compared_pair(inputs) or [max(inputs, key=table.mean_length)]
    paths = tuple(map(table.text_field, read))
    return Columns(input=paths, output=table.text_field(output))


def long_text(table: TableView, others: Sequence[str]) -> str | None:
    """Return a column for the output of these inputs: of those with texts, one named like an output
    (``response_1``), or the longest; None if there is none.
    """
    texts = [
        n for n in table.usable
        if n not in others and table.kind(n) == "text" and table.holds_words(n)
        and not table.repeats(n) and not NOT_MEANT.fullmatch(normalized(n))
    ]  # fmt: skip
    named = [n for n in texts if normalized(n).partition("_")[0] in OUTPUTS]
    return named[0] if named else max(texts, key=table.mean_length, default=None)


def first_question(table: TableView, guess: Columns) -> Columns | None:
    """Return columns that read the first of several questions and its answer; None without any."""
    questions = table.by_key.get("questions")
    if questions is None or table.kind(questions) != "list" or questions in guess.names():
        return None
    inputs = (*guess.named("input"), f"{questions}.0")
    return Columns(input=inputs, output=f"{guess.output}.0")
