"""The prompt on a card is the one that the dataset's rows are read as."""

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.cards.prompt_code import example_code, is_example, prompt_code
from hf_lorameta.data.chat_template import form_of
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.rows import read_rows
from hf_lorameta.data.sources.raw_dataset import RawDataset
from tests.cards.examples import of_dataset, rendered

TURNS = [
    {"role": "user", "content": "a question"},
    {"role": "assistant", "content": "its answer"},
    {"role": "user", "content": "the next question"},
    {"role": "assistant", "content": "A"},
]
ROW = {
    "instruction": "the instruction of a row", "input": "the input of a row", "output": "A",
    "messages": TURNS, "system": "the system prompt", "the context": "…", "question": "…",
    "options": ["a choice", "another choice"], "letter": "A",
}  # fmt: skip


@pytest.mark.parametrize(
    "columns",
    [
        Columns(input="input", output="output"),
        Columns(instruction="instruction", input="input", output="output"),
        Columns(messages="messages"),
        Columns(instruction="system", messages="messages"),
        Columns(messages="messages", instruction_text="Answer like a 'pirate'."),
        Columns(instruction="system", messages="messages", instruction_text="Answer like a {}."),
        Columns(messages="messages", instruction_text="Hi.", template="<u>{prompt}<m>"),
        Columns(messages="messages", instruction_text="Hi.", template="{instruction} {input}"),
        Columns(messages="messages", template="<u>{input}<m>"),
        Columns(input=("the context", "question"), output="output"),
        Columns(input=("the context", "question"), output="output", instruction_text="Hi."),
        Columns(input=("the context", "question"), output="letter", choices="options"),
        Columns(input="input", output="letter", choices="options", template="Q: {input}\nA:"),
        Columns(output="output", instruction_text="Write."),
        Columns(instruction="instruction", output="output"),
    ],
    ids=str,
)
def test_the_code_builds_the_prompt_that_rows_are_read_as(columns: Columns) -> None:
    raw = RawDataset(list(ROW), {}, None, "train", lambda: iter([ROW]), lambda: iter([ROW]))
    ((prompt, answer),) = read_rows(raw, columns)
    values: dict[str, Any] = {}
    exec(prompt_code(columns), values)
    assert (values["prompt"], answer) == (prompt, "a choice" if columns.choices else "A")


SOURCES = {
    "thoughts": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<bot><think>{{ '</think>' if not enable_thinking }}{% endif %}",
    "open thoughts": "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<bot><think>\n{% endif %}",
    "parts": "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}"
    "{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize(
    "columns",
    [
        Columns(input="input", output="output"),
        Columns(instruction="instruction", input="input", output="output"),
        Columns(input=("the context", "question"), output="output", instruction_text="Hi."),
        Columns(messages="messages"),
        Columns(instruction="system", messages="messages"),
        Columns(messages="messages", instruction_text="Answer like a 'pirate'."),
    ],
    ids=str,
)
def test_the_code_lets_the_chat_template_write_the_prompt_of_rows(
    columns: Columns, source: str
) -> None:
    templates = pytest.importorskip("transformers.utils.chat_template_utils")

    class Tokenizer:
        def apply_chat_template(self, messages: object, *, tokenize: bool, **how: object) -> str:
            assert not tokenize
            texts, _ = templates.render_jinja_template([messages], chat_template=source, **how)
            return str(texts[0])

    form = form_of({"chat_template": source}, "base", starts=False)
    columns = columns.with_prompt(None, form)
    raw = RawDataset(list(ROW), {}, None, "train", lambda: iter([ROW]), lambda: iter([ROW]))
    ((prompt, _),) = read_rows(raw, columns)
    values: dict[str, Any] = {"tokenizer": Tokenizer()}
    exec(prompt_code(columns), values)
    assert values["prompt"] == prompt


@given(st.tuples(st.text(), st.text()))
def test_an_example_is_two_lines_of_python_whatever_it_holds(row: tuple[str, str]) -> None:
    code = example_code(row)
    assert code.isprintable() is False  # the line break
    lines = code.split("\n")
    assert all(line.isprintable() for line in lines)
    assert tuple(ast.literal_eval(line.partition(" = ")[2]) for line in lines) == row


def test_only_the_card_of_a_public_dataset_has_an_example() -> None:
    row = ("a true\nrow", "its label")
    assert 'prompt = "a true\\nrow"\nanswer = "its label"\n```' in rendered(example=row)
    for hidden in (of_dataset(private=True), of_dataset(id=None)):
        text = rendered(example=row, **hidden)
        assert "a true" not in text


def test_an_example_has_an_output_and_is_short() -> None:
    assert is_example(("a", "b"))
    assert not is_example(("a", " "))
    assert not is_example(("a" * 800, "b"))
