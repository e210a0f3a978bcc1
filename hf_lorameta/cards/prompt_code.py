"""Python code that builds the prompt of a row as an adapter reads it, and one row as an example."""

from hf_lorameta.cards.markdown import Markdown
from hf_lorameta.data.columns.choices import show_choices
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.rows import join_inputs
from hf_lorameta.data.prompt import join_instruction
from hf_lorameta.types import Row

EXAMPLE_CHARACTERS = 800
"""Length of an example, at most."""


def prompt_code(columns: Columns) -> str:
    """Return code that assigns ``prompt`` from the parts of a row.

    Example:
        >>> print(prompt_code(Columns(instruction="instruction", input="input", output="output")))
        instruction, text = 'the instruction of a row', 'the input of a row'
        prompt = f'{instruction}\\n\\nInput: {text}\\nOutput:'
        >>> print(prompt_code(Columns(input=("context", "question"), output="answer")))
        prompt = 'Context: …\\nQuestion: …'
        >>> print(prompt_code(Columns(messages="messages")))
        turns = ["a question", "its answer", "the next question"]  # without the names of the roles
        prompt = "\\n\\n".join(turns)
    """
    lines, text = [], repr(_input(columns))
    if columns.messages:
        first = '"the system prompt", ' if columns.instruction else ""
        lines = [
            f'turns = [{first}"a question", "its answer", "the next question"]'
            "  # without the names of the roles"
        ]
        text = '"\\n\\n".join(turns)'
    given = {}
    if columns.instruction_of_input or columns.instruction_text:
        given["instruction"] = repr(columns.instruction_text or "the instruction of a row")
    if columns.input or columns.messages or not given:
        given["text"] = text
    # stand-ins that no template holds, as its braces are escaped
    instruction, stand_in = "\0i" * ("instruction" in given), "\0t" * ("text" in given)
    template = join_instruction(instruction, stand_in, columns.template)
    if template == stand_in:
        return "\n".join([*lines, f"prompt = {text}"])
    lines.append(f"{', '.join(given)} = {', '.join(given.values())}")
    return "\n".join([*lines, f"prompt = {_f_string(template)}"])


def _input(columns: Columns) -> str:
    """Return the form of a row's input, with the labels of several ones and the choices."""
    names = columns.named("input")
    if not names:
        return "the beginning of a text"
    form = join_inputs(names, ["…"] * len(names) if names[1:] else ["the input of a row"])
    choices = show_choices(["a choice", "another choice"])
    return f"{form}\n{choices}" if columns.choices else form


def _f_string(template: str) -> str:
    """Return code of a template with stand-ins for instruction and text."""
    for text, code in (("{", "{{"), ("}", "}}"), ("\0i", "{instruction}"), ("\0t", "{text}")):
        template = template.replace(text, code)
    return f"f{template!r}"


def example_code(row: Row) -> Markdown:
    """Return code that assigns ``prompt`` and ``answer`` of a row, always on two lines.

    Example:
        >>> print(example_code(("1+1=\\n```", "2\\u202e")))
        prompt = '1+1=\\n```'
        answer = '2\\u202e'
    """
    prompt, answer = row
    return Markdown(f"prompt = {prompt!r}\nanswer = {answer!r}")


def is_example(row: Row) -> bool:
    """Whether a row is complete and short enough for a card."""
    return bool(row[1].strip()) and len(row[0]) + len(row[1]) <= EXAMPLE_CHARACTERS
