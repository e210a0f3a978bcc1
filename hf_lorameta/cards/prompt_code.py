"""Python code that builds the prompt of a row as an adapter reads it, and one row as an example."""

from hf_lorameta.cards.markdown import Markdown
from hf_lorameta.data.columns import Columns
from hf_lorameta.data.prompt import join_instruction
from hf_lorameta.types import Row

EXAMPLE_CHARACTERS = 800
"""Length of an example, at most."""


def prompt_code(columns: Columns) -> str:
    """Return code that assigns ``prompt`` from the parts of a row.

    Example:
        >>> print(prompt_code(Columns(instruction="instruction", input="input", output="output")))
        instruction, text = 'the instruction of a row', "the input of a row"
        prompt = f'{instruction}\\n\\nInput: {text}\\nOutput:'
        >>> print(prompt_code(Columns(messages="messages")))
        turns = ["a question", "its answer", "the next question"]  # without the names of the roles
        prompt = "\\n\\n".join(turns)
    """
    if columns.messages:
        first = '"the system prompt", ' if columns.instruction else ""
        code = (
            f'turns = [{first}"a question", "its answer", "the next question"]'
            "  # without the names of the roles\n"
            f'{"text" if columns.template else "prompt"} = "\\n\\n".join(turns)'
        )
        formatted = _f_string(join_instruction("", "\0t", columns.template))
        return f"{code}\nprompt = {formatted}" if columns.template else code
    if columns.instruction or columns.instruction_text or columns.template:
        instruction = columns.instruction_text or "the instruction of a row"
        instructed = bool(columns.instruction or columns.instruction_text)
        # stand-ins that no template holds, as its braces are escaped
        template = join_instruction("\0i" * instructed, "\0t", columns.template)
        given = 'text = "the input of a row"'
        if instructed:
            given = f'instruction, text = {instruction!r}, "the input of a row"'
        return f"{given}\nprompt = {_f_string(template)}"
    given = "input of a row" if columns.input else "beginning of a text"
    return f'prompt = "the {given}"'


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
