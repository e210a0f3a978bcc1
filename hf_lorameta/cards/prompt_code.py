"""Python code for cards: the prompt of a row as an adapter reads it, and a row as an example."""

from hf_lorameta.cards.markdown import Markdown
from hf_lorameta.data.columns.choices import show_choices
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.rows import join_inputs
from hf_lorameta.data.prompt import join_instruction
from hf_lorameta.quoting import python_literal
from hf_lorameta.types import Row

EXAMPLE_CHARACTERS = 800
"""Length of an example, at most."""


def prompt_code(columns: Columns) -> str:
    """Return code that assigns ``prompt``, with placeholders for the values of a row.

    Example:
        >>> print(prompt_code(Columns(instruction="instruction", input="input", output="output")))
        prompt = "the instruction of a row\\n\\nInput: the input of a row\\nOutput:"
        >>> print(prompt_code(Columns(input=("context", "question"), output="answer")))
        prompt = "Context: …\\nQuestion: …"
        >>> print(prompt_code(Columns(messages="messages")))
        prompt = "a question\\n\\nits answer\\n\\nthe next question"
    """
    instruction = columns.instruction_text or ""
    if columns.instruction_of_input and not instruction:
        instruction = "the instruction of a row"
    text = _input(columns) or ("" if instruction else "the beginning of a text")
    return f"prompt = {python_literal(join_instruction(instruction, text, columns.template))}"


def _input(columns: Columns) -> str:
    """Return the form of a row's input: turns, or the labels of several columns and the choices."""
    if columns.messages:
        system = ["the system prompt"] if columns.instruction else []
        return "\n\n".join([*system, "a question", "its answer", "the next question"])
    names = columns.named("input")
    form = join_inputs(names, ["the input of a row"] if len(names) == 1 else ["…"] * len(names))
    choices = show_choices(["a choice", "another choice"])
    return f"{form}\n{choices}" if columns.choices else form


def example_code(row: Row) -> Markdown:
    """Return code that assigns ``prompt`` and ``answer`` of a row, always on two lines.

    Example:
        >>> print(example_code(("1+1=\\n```", "2\\u202e")))
        prompt = "1+1=\\n```"
        answer = "2\\u202e"
    """
    prompt, answer = row
    return Markdown(f"prompt = {python_literal(prompt)}\nanswer = {python_literal(answer)}")


def is_example(row: Row) -> bool:
    """Whether a row is complete and short enough for a card."""
    return bool(row[1].strip()) and len(row[0]) + len(row[1]) <= EXAMPLE_CHARACTERS
