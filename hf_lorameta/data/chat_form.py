"""The form in which a base model reads chats, as a value that is stored with an adapter.

`hf_lorameta.data.chat_template` gets it from the base model's chat template.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from hf_lorameta.data.prompt import PROMPT

CHAT = "chat"
"""The template that stands for the base model's own chat template."""
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"

Turn = tuple[str, str]
"""(role, text) of one turn."""


def one_text(turns: Iterable[Turn]) -> str:
    """Return the texts of turns as one, with blank lines between.

    Example:
        >>> one_text([("user", "hi"), ("assistant", "hello")])
        'hi\\n\\nhello'
    """
    return "\n\n".join(text for _, text in turns)


class ChatMode(BaseModel):
    """How a base model's chat template was run, and what it puts around further turns.

    Attributes:
        chat_template_kwargs: arguments of the template, named as in transformers and servers.
        system: a system text that turns thinking off, if no argument does.
        closing: added after what the template writes: it closes a thinking block that the template
            leaves open, or begins the answer.
        date: the date given to the template as today's, if it writes the date and takes no
            argument for it.
        strips: whether whitespace around a message is removed.
        content_parts: whether the template takes a message as a list of parts, not as a text.
        unspaced: whether an answer follows the prompt directly; other answers begin with a space,
            unless the prompt ends in whitespace.
        end: what follows an answer; its first token ends the answers that the adapter is trained
            on, if the base model stops there.
        between: the texts between a user's message and the answer to it, and between the answer
            and the next message; None if turns cannot be told apart.
        around_system: the texts before and after a system text, in place of the one that the
            template begins with; None if it has no place for one.
        applies: whether ``apply_chat_template`` of transformers gives the same tokens on any day.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    chat_template_kwargs: dict[str, bool | int | str] = {}
    system: str = ""
    closing: str = ""
    date: str | None = None
    strips: bool = False
    content_parts: bool = False
    unspaced: bool = False
    end: str = ""
    between: tuple[str, str] | None = None
    around_system: tuple[str, str] | None = None
    applies: bool = True

    @model_serializer(mode="wrap")
    def _as_stored(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not set."""
        content = {
            name: value for name, value in serialize(self).items() if value or value is False
        }
        return {"chat_template_kwargs": self.chat_template_kwargs} | content

    @property
    def thinks_not(self) -> bool:
        """Whether thinking was turned off."""
        off = (value in (False, 0) for value in self.chat_template_kwargs.values())
        return bool(self.system) or any(off)

    def messages(self, turns: Sequence[Turn]) -> list[Turn]:
        """Return turns as messages: the system's, then alternately the user's and the assistant's.

        The first and the last of these are a user's, as most templates require: texts of the same
        side are joined, and so is a greeting with the message after it. If the template cannot tell
        turns apart, or the last turn is the assistant's, all turns become one message.

        Example:
            >>> mode = ChatMode(between=("<bot>", "<user>"))
            >>> mode.messages([("system", "Be nice."), ("user", "hi"), ("tool", "1")])
            [('user', 'Be nice.\\n\\nhi\\n\\n1')]
        """
        system, rest = self.sides(turns)
        text = "\n".join(filter(None, (self.system, system)))
        return [(SYSTEM, text), *rest] if text else rest

    def sides(self, turns: Sequence[Turn]) -> tuple[str, list[Turn]]:
        """Return the system text, if it has a place, and messages of users and assistants.

        Texts of the same side are joined; the last message is a user's.
        """
        count = next((i for i, (role, _) in enumerate(turns) if role != SYSTEM), len(turns))
        system, spoken = self._text(turns[:count]), turns[count:]
        sides = groupby(spoken, lambda turn: ASSISTANT if turn[0] == ASSISTANT else USER)
        rest = [(side, self._text(texts)) for side, texts in sides]
        if len(rest) > 1 and rest[0][0] == ASSISTANT:
            rest[:2] = [(USER, self._text(rest[:2]))]
        if self.between is None or not rest or rest[-1][0] != USER:
            rest = [(USER, self._text(spoken))]
        if system and not self.around_system:
            rest[0] = (USER, self._text([(SYSTEM, system), rest[0]]))
            system = ""
        return system, rest

    def _text(self, turns: Iterable[Turn]) -> str:
        text = one_text(turns)
        return text.strip() if self.strips else text


class ChatPrompt(str):
    """The text of a prompt in the form of a chat, which keeps what it was made of.

    A part of it is an ordinary text. It can be pickled.

    Attributes:
        turns: what the form was put around, the last one not an answer; empty if they are not kept.
        template: of the form.

    Example:
        >>> prompt = ChatForm("<user>{prompt}<bot>", None).prompt([("user", "hi")])
        >>> prompt, prompt.turns
        ('<user>hi<bot>', (('user', 'hi'),))
    """

    __slots__ = ("template", "turns")

    turns: tuple[Turn, ...]
    template: str

    def __new__(cls, text: str, turns: Iterable[Turn] = (), template: str = "") -> "ChatPrompt":
        """Return the text with the turns and the template that it was made of."""
        prompt = super().__new__(cls, text)
        prompt.turns, prompt.template = tuple(turns), template
        return prompt


def end_of_prompt(prompt: str, characters: int) -> str:
    """Return the end of a prompt; of the form of a chat without its turns, if it is cut.

    Example:
        >>> prompt = ChatForm("<user>{prompt}<bot>", None).prompt([("user", "hi")])
        >>> end_of_prompt(prompt, 7), end_of_prompt(prompt, 7).turns
        ('hi<bot>', ())
    """
    if len(prompt) <= characters:
        return prompt
    end = prompt[-characters:]
    return ChatPrompt(end, (), prompt.template) if isinstance(prompt, ChatPrompt) else end


class ChatForm(NamedTuple):
    """A template of prompts.

    Attributes:
        template: with ``{prompt}``, if it is that of a chat. A start token that the tokenizer puts
            before every text is left out.
        chat: how the base model's chat template gave it; None if it did not.
    """

    template: str
    chat: ChatMode | None

    @property
    def end(self) -> str:
        """What follows the last message."""
        return self.template.partition(PROMPT)[2]

    @property
    def has_turns(self) -> bool:
        """Whether earlier turns can be told apart from the last message."""
        return self.chat is not None and self.chat.between is not None

    def prompt(self, turns: Sequence[Turn]) -> ChatPrompt:
        """Return turns in this form, as text.

        Args:
            turns: the last one is not an answer; a form without `has_turns` makes one message of
                them.

        Example:
            >>> form = ChatForm("<user>{prompt}<bot>", ChatMode(between=("<bot>", "<user>")))
            >>> form.prompt([("user", "hi"), ("assistant", "hello"), ("user", "bye")])
            '<user>hi<bot>hello<user>bye<bot>'
        """
        return ChatPrompt(self._text(turns), turns, self.template)

    def _text(self, turns: Sequence[Turn]) -> str:
        mode = self.chat
        if mode is None:
            return self.template.replace(PROMPT, one_text(turns))
        start, _, end = self.template.partition(PROMPT)
        system, rest = mode.sides(turns)
        if system and mode.around_system:
            start = system.join(mode.around_system)
        answer, more = mode.between or ("", "")
        joined = (text + (answer if role == USER else more) for role, text in rest[:-1])
        return "".join([start, *joined, rest[-1][1], end])
