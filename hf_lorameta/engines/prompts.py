"""What a model reads of a row, as text: examples and a chat template are put around prompts here.

How the rows of a dataset are written is decided where it is read; a prompt in the form of a chat
keeps the turns that it was made of, see `hf_lorameta.data.chat_form.ChatPrompt`.
"""

from collections.abc import Sequence
from itertools import dropwhile, takewhile

from hf_lorameta.data.chat_form import ASSISTANT, SYSTEM, USER, ChatForm, ChatPrompt, Turn, one_text
from hf_lorameta.types import Row


def row_text(prompt: str, output: str) -> str:
    """Join prompt and output, with a space unless the prompt is empty or ends in whitespace.

    Example:
        >>> row_text("Q:", "a"), row_text("Q:\\n", "a"), row_text("", "a")
        ('Q: a', 'Q:\\na', 'a')
    """
    return f"{prompt} {output}" if prompt and not prompt[-1].isspace() else prompt + output


def prompt_text(text: str, shots: Sequence[Row] = ()) -> str:
    """Return a row's prompt: few-shot examples, each followed by a blank line, then its input.

    Example:
        >>> prompt_text("2+2=", shots=[("1+1=", "2")])
        '1+1= 2\\n\\n2+2='
    """
    return "".join(f"{row_text(*shot)}\n\n" for shot in shots) + text


def ends_as_chat(prompt: str, end: str) -> bool:
    """Whether a prompt is in the form of a chat in which this text comes before an answer.

    Example:
        >>> prompt = ChatForm("<user>{prompt}<bot>", None).prompt([("user", "hi")])
        >>> ends_as_chat(prompt, "<bot>"), ends_as_chat(str(prompt), "<bot>")
        (True, False)
    """
    return bool(end.strip()) and isinstance(prompt, ChatPrompt) and prompt.template.endswith(end)


def in_chat(form: ChatForm | None, rows: Sequence[Row], shots: Sequence[Row] = ()) -> list[Row]:
    """Return rows whose prompts are messages in the base model's chat template, if it has one.

    Args:
        form: of the base model's chat template; None if it has none.
        rows: those that have the form of a chat already keep it.
        shots: examples that come first; in a chat, as earlier messages and their answers, after
            the system text of the row.

    Example:
        >>> form = ChatForm("<user>{prompt}<bot>", None)
        >>> in_chat(form, [("a", "b")], [("c", "d")]), in_chat(None, [("a", "b")], [("c", "d")])
        ([('<user>c d\\n\\na<bot>', 'b')], [('c d\\n\\na', 'b')])
    """
    if form is None:
        return [(prompt_text(text, shots), output) for text, output in rows]
    return [(_in_chat(form, prompt, shots), output) for prompt, output in rows]


def _in_chat(form: ChatForm, prompt: str, shots: Sequence[Row]) -> str:
    turns = _turns(form, prompt)
    if isinstance(prompt, ChatPrompt) and not turns:
        return ChatPrompt(prompt_text(prompt, shots), (), prompt.template)
    if not shots:
        return form.prompt(turns)
    count = sum(1 for _ in takewhile(_is_system, turns))
    examples = [(_example(form, text), output) for text, output in shots]
    if form.has_turns:
        shown = [turn for asked, output in examples for turn in (*asked, (ASSISTANT, output))]
        return form.prompt([*turns[:count], *shown, *turns[count:]])
    message = prompt_text(
        one_text(turns[count:]), [(one_text(asked), output) for asked, output in examples]
    )
    return form.prompt([*turns[:count], (USER, message)])


def _turns(form: ChatForm, prompt: str) -> Sequence[Turn]:
    """Return the turns that a prompt has in a form: one if it is a text.

    There are none if it is in a chat form that begins otherwise, or its beginning was cut off.
    """
    if isinstance(prompt, ChatPrompt):
        if prompt.template == form.template:
            return prompt.turns
        if ends_as_chat(prompt, form.end):
            return ()
    return [(USER, str(prompt))]


def _example(form: ChatForm, prompt: str) -> Sequence[Turn]:
    """Return the turns of an example, without its system text."""
    turns = _turns(form, prompt) or [(USER, str(prompt))]
    return list(dropwhile(_is_system, turns))


def _is_system(turn: Turn) -> bool:
    return turn[0] == SYSTEM
