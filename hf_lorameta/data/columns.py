"""Which columns of a dataset are read as input and output."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from hf_lorameta.errors import ColumnsError, UnlabeledDatasetError, UsageError


class Columns(BaseModel):
    """The columns of a dataset by role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str | None = None  # prompts; None for plain text
    output: str | None = None  # answers; None if the dataset has only inputs
    instruction: str | None = None  # put before the input
    messages: str | None = None  # chat turns; the other three are then None

    def names(self) -> list[str]:
        """Return the columns to read, in the order instruction, input, output, messages."""
        return [n for n in (self.instruction, self.input, self.output, self.messages) if n]


LAYOUTS: tuple[Columns, ...] = (
    Columns(instruction="instruction", input="input", output="output"),
    Columns(instruction="instruction", input="input", output="response"),
    Columns(input="input", output="output"),
    Columns(input="prompt", output="completion"),
    Columns(input="prompt", output="response"),
    Columns(input="question", output="answer"),
    Columns(input="instruction", output="output"),
    Columns(input="instruction", output="response"),
    Columns(messages="messages"),
    Columns(messages="conversations"),
)
"""Known layouts. Of two that fit, one whose columns are a subset of the other's is dropped."""

INPUT_LAYOUTS: tuple[Columns, ...] = (
    Columns(instruction="instruction", input="input"),
    *(Columns(input=name) for name in ("input", "prompt", "question", "instruction")),
)
"""Layouts without outputs, used only if no other column may hold outputs."""

_ID_COLUMNS = {"id", "idx", "index", "uid", "uuid"}
_INPUT_COLUMNS = {"input", "prompt", "question", "instruction"}
_OUTPUT_COLUMNS = {
    "label", "labels", "label_text", "sentiment", "summary", "target", "class", "category",
    "answer", "answers", "output", "response", "completion", "highlights", "translation",
}  # fmt: skip
_PROMPT_COLUMNS = _INPUT_COLUMNS | {"context"}


def parse_columns(text: str) -> Columns:
    """Parse the command line's form ``input=question,output=answer``.

    Raises:
        UsageError: a part is not of the form role=column, or the roles cannot be combined.

    Example:
        >>> parse_columns("input=q,output=a").output
        'a'
    """
    parts = [part.strip().partition("=")[::2] for part in text.split(",")]
    pairs, roles = dict(parts), set(Columns.model_fields)
    if not set(pairs) <= roles or not all(pairs.values()) or len(pairs) < len(parts):
        raise UsageError(
            f"--columns {text}: expected role=column, roles are {', '.join(sorted(roles))}",
            hint="--columns input=question,output=answer",
        )
    return check_columns(Columns(**pairs))


def as_columns(columns: Columns | Mapping[str, str] | str | None) -> Columns | None:
    """Return columns that a Python program gives as such, by role, or as on the command line.

    Raises:
        UsageError: an unknown role, or roles that cannot be combined.

    Example:
        >>> as_columns({"input": "q", "output": "a"}) == as_columns("input=q,output=a")
        True
    """
    if columns is None or isinstance(columns, Columns):
        return columns
    if isinstance(columns, str):
        return parse_columns(columns)
    return parse_columns(",".join(f"{role}={name}" for role, name in columns.items()))


def check_columns(columns: Columns) -> Columns:
    """Return the columns; raise `UsageError` if their roles cannot be combined."""
    texts = columns.input or columns.output
    if bool(columns.messages) == bool(texts) or (columns.messages and columns.instruction):
        raise UsageError(
            f"columns {describe(columns)}: expected input and output, one of them, or messages",
            hint="--columns input=question,output=answer",
        )
    return columns


def describe(columns: Columns) -> str:
    """Return columns in the command line's form, ``input=q,output=a``."""
    return ",".join(f"{role}={name}" for role, name in columns if name is not None)


def find_columns(names: Sequence[str], labels: Mapping[str, object] = {}) -> Columns:
    """Return the layout that columns fit; those in `labels`, class labels, may be outputs.

    Raises:
        ColumnsError: no layout fits, or several do.
        UnlabeledDatasetError: there is an input, no known output, and columns that may hold one.

    Example:
        >>> find_columns(["text"]).output
        'text'
        >>> describe(find_columns(["id", "prompt"]))
        'input=prompt'
    """
    have = set(names)
    fitting = [layout for layout in LAYOUTS if set(layout.names()) <= have]
    best = [
        layout for layout in fitting
        if not any(set(layout.names()) < set(other.names()) for other in fitting)
    ]  # fmt: skip
    listed = ", ".join(names)
    if len(best) == 1:
        read = _PROMPT_COLUMNS if best[0].messages else set(best[0].names())
        unread = sorted(have & _PROMPT_COLUMNS - read)
        if unread:
            raise ColumnsError(
                f"{describe(best[0])} would leave {', '.join(unread)} unread; all: {listed}",
                hint=f"confirm with --columns {describe(best[0])}, or add one as instruction=",
            )
        return best[0]
    if best:
        candidates = " or ".join(describe(layout) for layout in best)
        raise ColumnsError(
            f"the columns can be read as {candidates}; all columns: {listed}",
            hint=f"choose one: --columns {describe(best[0])}",
        )
    if "text" in have and not labels and not have & _OUTPUT_COLUMNS:
        return Columns(output="text")
    inputs = sorted(have & _INPUT_COLUMNS)
    if inputs and not have & (_OUTPUT_COLUMNS | {"text"}):
        for layout in INPUT_LAYOUTS:
            if set(layout.names()) == have - _ID_COLUMNS and not labels:
                return layout
        raise UnlabeledDatasetError(
            f"the dataset has inputs ({', '.join(inputs)}) and no outputs; all columns: {listed}",
            hint=f"name the output column: --columns input={inputs[0]},output=COLUMN; or if there "
            f"is none: --columns input={inputs[0]}",
        )
    raise ColumnsError(
        f"the columns fit no known layout; all columns: {listed}",
        hint="name the columns to read: --columns input=COLUMN,output=COLUMN",
    )


def require_columns(columns: Columns, names: Sequence[str]) -> None:
    """Raise `ColumnsError` if a dataset with columns `names` lacks one of the columns to read."""
    missing = [name for name in columns.names() if name not in names]
    if missing:
        raise ColumnsError(
            f"no column {', '.join(missing)}; all columns: {', '.join(names)}",
            hint="name existing ones: --columns input=COLUMN,output=COLUMN",
        )
