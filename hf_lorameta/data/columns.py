"""What goes into a bank: a YAML list of adapters, each with the dataset it was trained on.

version: 1
base_model: org/model
tokenizer: org/model          # optional, the base model's otherwise
published: true               # the entries are on the public Hub: cards link to them
defaults: {config: null, split: train, columns: {input: input, output: output}, license: mit}
entries:
  - adapter: org/adapter
    dataset: org/dataset
    revision: main            # of the adapter; and below, all optional, what differs
    dataset_revision: main
    config: default
    split: train
    columns: {input: question, output: answer}
    license: mit
"""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from hf_lorameta.errors import ColumnsError, UnlabeledDatasetError, UsageError


class Columns(BaseModel):
    """Which columns of a dataset are read as input and as output.

    Attributes:
        input: name of the column with the prompts; None if there is none (plain text).
        output: name of the column with the answers.
        instruction: name of a column put before the input, if any.
        messages: name of a column of chat turns; then the other three are None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str | None = None
    output: str | None = None
    instruction: str | None = None
    messages: str | None = None

    def names(self) -> list[str]:
        """The columns read, in the order instruction, input, output, messages.

        Example:
            >>> Columns(input="question", output="answer").names()
            ['question', 'answer']
        """
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
"""Known layouts; one whose columns all belong to another found layout gives way to it."""

PROMPTS: tuple[Columns, ...] = (
    Columns(instruction="instruction", input="input"),
    *(Columns(input=name) for name in ("input", "prompt", "question", "instruction")),
)
"""Layouts without outputs; found only where there is no other column that could hold them."""

_NUMBERS = {"id", "idx", "index", "uid", "uuid"}
_INPUTS = {"input", "prompt", "question", "instruction"}
_ANSWERS = {
    "label", "labels", "label_text", "sentiment", "summary", "target", "class", "category",
    "answer", "answers", "output", "response", "completion", "highlights", "translation",
}  # fmt: skip
_PROMPTS = _INPUTS | {"context"}


# --- columns ------------------------------------------------------------------------------------


def parse_columns(text: str) -> Columns:
    """Read the form ``input=question,output=answer`` of the command line.

    Raises:
        UsageError: a part is not of the form role=column, or the roles do not fit together.

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


def check_columns(columns: Columns) -> Columns:
    """Refuse roles that do not fit together: messages are alone, all else needs input or output.

    Raises:
        UsageError: messages with others, or neither messages nor input nor output.
    """
    texts = columns.input or columns.output
    if bool(columns.messages) == bool(texts) or (columns.messages and columns.instruction):
        raise UsageError(
            f"columns {describe(columns)}: expected input and output, one of them, or messages",
            hint="--columns input=question,output=answer",
        )
    return columns


def describe(columns: Columns) -> str:
    """The command line's form of a choice of columns.

    Example:
        >>> describe(Columns(input="q", output="a"))
        'input=q,output=a'
    """
    return ",".join(
        f"{role}={name}" for role, name in columns.model_dump(exclude_none=True).items()
    )


def find_columns(names: Sequence[str], labels: Mapping[str, object] = {}) -> Columns:
    """Find the layout that a dataset's columns have.

    Args:
        names: column names.
        labels: names of class-label columns.

    Raises:
        ColumnsError: none fits, or more than one; lists the columns.
        UnlabeledDatasetError: there is an input, no known output, and columns that may hold one.

    Example:
        >>> find_columns(["id", "question", "answer"]).output
        'answer'
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
        read = _PROMPTS if best[0].messages else set(best[0].names())
        unread = sorted(have & _PROMPTS - read)
        if unread:
            raise ColumnsError(
                f"{describe(best[0])} would leave {', '.join(unread)} unread; all: {listed}",
                hint=f"say so with --columns {describe(best[0])}, or put one in as instruction=",
            )
        return best[0]
    if best:
        readings = " or ".join(describe(layout) for layout in best)
        raise ColumnsError(
            f"the columns can be read as {readings}; all columns: {listed}",
            hint=f"choose one: --columns {describe(best[0])}",
        )
    if "text" in have and not labels and not have & _ANSWERS:
        return Columns(output="text")
    inputs = sorted(have & _INPUTS)
    if inputs and not have & (_ANSWERS | {"text"}):
        for layout in PROMPTS:
            if set(layout.names()) == have - _NUMBERS and not labels:
                return layout
        raise UnlabeledDatasetError(
            f"the dataset has inputs ({', '.join(inputs)}) and no outputs; all columns: {listed}",
            hint=f"name them: --columns input={inputs[0]},output=COLUMN; or if there are none: "
            f"--columns input={inputs[0]}",
        )
    raise ColumnsError(
        f"the columns fit no known layout; all columns: {listed}",
        hint="name those to read: --columns input=COLUMN,output=COLUMN",
    )


def require_columns(columns: Columns, names: Sequence[str]) -> None:
    missing = [name for name in columns.names() if name not in names]
    if missing:
        raise ColumnsError(
            f"no column {', '.join(missing)}; all columns: {', '.join(names)}",
            hint="name existing ones: --columns input=COLUMN,output=COLUMN",
        )
