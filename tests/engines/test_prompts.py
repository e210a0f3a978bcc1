"""Prompts as a model reads them: examples and the chat template, around texts and chats."""

import pickle
from typing import Any

import pytest

from hf_lorameta import open_dataset
from hf_lorameta.data.chat_form import SYSTEM, USER, ChatForm, ChatMode, ChatPrompt
from hf_lorameta.engines.prompts import in_chat
from hf_lorameta.types import Row

pytestmark = pytest.mark.unit

MODE = ChatMode(between=("<end><bot>", "<end><user>"), around_system=("<system>", "<user>"))
CHAT = ChatForm("<system>Help.<user>{prompt}<end><bot>", MODE)
ONE_MESSAGE = ChatForm("<user>{prompt}<bot>", None)


def rows_of(*cells: dict[str, Any], template: ChatForm | str | None = None) -> list[Row]:
    return list(open_dataset(list(cells), template=template).rows())


def chat(*texts: str, system: str = "") -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"messages": [{"role": "system", "content": system}] * bool(system) + turns}


def test_examples_are_earlier_turns_behind_the_system_text_of_a_row() -> None:
    rows = rows_of(
        *(chat(text, text.upper(), system=f"Be {text}.") for text in "abc"),
        chat("d", "e", "f", "F", system="Write <user> as it is."),
        template=CHAT,
    )
    shown = "a<end><bot>A<end><user>b<end><bot>B<end><user>"
    assert in_chat(CHAT, rows) == rows
    assert in_chat(CHAT, rows[2:], rows[:2]) == [
        (f"<system>Be c.<user>{shown}c<end><bot>", "C"),
        (f"<system>Write <user> as it is.<user>{shown}d<end><bot>e<end><user>f<end><bot>", "F"),
    ]


@pytest.mark.parametrize(
    ("form", "template", "text", "expected"),
    [
        (None, None, "a", "c d\n\na"),
        (ONE_MESSAGE, None, "a", "<user>c d\n\na<bot>"),
        (ONE_MESSAGE, ONE_MESSAGE, "a", "<user>c d\n\na<bot>"),
        (CHAT, None, "a", "<system>Help.<user>c<end><bot>d<end><user>a<end><bot>"),
        (CHAT, CHAT.template, "a", "<system>Help.<user>c<end><bot>d<end><user>a<end><bot>"),
        # in a chat form that begins otherwise
        (CHAT, "<u>{prompt}<end><bot>", "a", "<u>c<end><bot> d\n\n<u>a<end><bot>"),
        # texts are no chats, whatever they end in
        (ONE_MESSAGE, None, "a<bot>", "<user>c d\n\na<bot><bot>"),
        (ONE_MESSAGE, "Q: {prompt}\nA:", "a", "<user>Q: c\nA: d\n\nQ: a\nA:<bot>"),
    ],
)
def test_examples_are_put_before_texts_and_messages(
    form: ChatForm | None, template: ChatForm | str | None, text: str, expected: str
) -> None:
    shot, row = rows_of(
        {"text": "c", "label": "d"}, {"text": text, "label": "b"}, template=template
    )
    assert in_chat(form, [row], [shot]) == [(expected, "b")]


def test_a_chat_without_its_turns_stays_as_it_is() -> None:
    cut = ChatPrompt("xt<end><bot>", (), CHAT.template)
    assert in_chat(CHAT, [(cut, "b")]) == [(cut, "b")]
    [(shown, _)] = in_chat(CHAT, [(cut, "b")], [("c", "d")])
    assert shown == "c d\n\nxt<end><bot>"
    assert isinstance(shown, ChatPrompt)


def test_turns_outlive_a_process_border() -> None:
    prompt = CHAT.prompt([(SYSTEM, "Be brief."), (USER, "a")])
    copy = pickle.loads(pickle.dumps(prompt))
    assert (copy, copy.turns, copy.template) == (prompt, prompt.turns, prompt.template)
