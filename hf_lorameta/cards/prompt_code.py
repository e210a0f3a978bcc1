"""Python code for cards: the prompt of a row as an adapter reads it, and a row as an example."""

from collections.abc import Sequence

from hf_lorameta.cards.markdown import Markdown, render
from hf_lorameta.data.chat_form import ASSISTANT, SYSTEM, USER, ChatMode, Turn
from hf_lorameta.data.columns.choices import show_choices
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.rows import join_inputs
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
        >>> chat = ChatMode(chat_template_kwargs={"enable_thinking": False})
        >>> print(prompt_code(Columns(input="input", chat=chat)))
        messages = [{"role": "user", "content": "the input of a row"}]
        prompt = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    """
    instruction = columns.instruction_text or ""
    if columns.instruction_of_input and not instruction:
        instruction = "the instruction of a row"
    turns = _turns(columns, bool(instruction))
    if columns.chat is None or not columns.chat.applies:
        return f"prompt = {python_literal(columns.prompt(instruction, turns))}"
    return _chat_code(columns.chat, columns.spoken(instruction, turns))


def usage_program(
    base_model: str, base_revision: str | None, columns: Columns, adapter: str, prompt: str
) -> str:
    """Return the program of a card, for a prompt as the adapter reads it.

    Args:
        base_model: of the adapter.
        base_revision: its commit; None if it is not known.
        columns: of the adapter's dataset.
        adapter: its repo or folder.
        prompt: with all that rows share.

    Example:
        >>> print(usage_program("org/base", None, Columns(input="a"), "./mine", "Why?"))
        ... # doctest: +ELLIPSIS
        from peft import PeftModel
        ...
        model = PeftModel.from_pretrained(model, "./mine")
        <BLANKLINE>
        prompt = "Why?"
        ...
    """
    return render(
        "program.py.j2",
        base={"id": base_model, "revision": base_revision},
        adapter=adapter,
        columns=columns,
        prompt_code=Markdown(f"prompt = {python_literal(prompt)}"),
    ).rstrip()


def _chat_code(mode: ChatMode, turns: Sequence[Turn]) -> str:
    """Return code that lets the base model's own chat template write the prompt."""
    shown = []
    for role, text in mode.messages(turns):
        content = python_literal(text)
        if mode.content_parts:
            content = f'[{{"type": "text", "text": {content}}}]'
        shown.append(f'{{"role": "{role}", "content": {content}}}')
    listed = ", ".join(shown)
    if len(shown) > 1:
        listed = "".join(f"\n    {message}," for message in shown) + "\n"
    settings = {"tokenize": False, "add_generation_prompt": True, **mode.chat_template_kwargs}
    named = (f"{k}={python_literal(v) if isinstance(v, str) else v}" for k, v in settings.items())
    lines = [
        f"messages = [{listed}]",
        "prompt = tokenizer.apply_chat_template(",
        f"    messages, {', '.join(named)}",
        ")",
        *([f"prompt += {python_literal(mode.closing)}"] if mode.closing else []),
    ]
    return "\n".join(lines)


def _turns(columns: Columns, has_instruction: bool) -> list[Turn]:
    """Return the form of a row's input: turns, or the labels of several columns and the choices."""
    if columns.messages:
        system = [(SYSTEM, "the system prompt")] if columns.instruction else []
        chat = [(USER, "a question"), (ASSISTANT, "its answer"), (USER, "the next question")]
        return [*system, *chat]
    names = columns.named("input")
    form = join_inputs(names, ["the input of a row"] if len(names) == 1 else ["…"] * len(names))
    choices = show_choices(["a choice", "another choice"])
    form = f"{form}\n{choices}" if columns.choices else form
    return [(USER, form or ("" if has_instruction else "the beginning of a text"))]


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
