"""Conversations as (input, output): the last answer is the output, all turns before it the input.

These are read: chats with a role and a text in each turn, pairs of a question and an answer, texts
of two alternating speakers, and transcripts, see `is_transcript`. A tool call is read as JSON.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from hf_lorameta.data.chat_form import ASSISTANT, SYSTEM, USER, Turn, one_text
from hf_lorameta.data.columns.cells import from_json

_ROLE_KEYS = ("role", "from", "speaker", "user", "author")
_TEXT_KEYS = ("content", "value", "text", "message", "utterance", "parts")
_ANSWERERS = {
    "assistant", "gpt", "model", "bot", "chatgpt", "chatbot", "ai", "agent", "function_call",
    "function-call", "tool_call",
}  # fmt: skip
_SYSTEM, _USERS = {"system", "developer"}, {"user", "human", "prompter"}
_OTHERS = {*_SYSTEM, "tool", "function", "observation", "function_response"}
_PAIRS = (
    ("human", "assistant"), ("user", "assistant"), ("question", "answer"), ("input", "output"),
    ("prompt", "response"),
)  # fmt: skip
_SPEAKER = re.compile(
    r"(?:^|\n[ \t]*|###[ \t]*)(Human|User|Assistant|Bot|AI):[ \t]*", re.IGNORECASE
)

_CHATML = re.compile(r"<\|im_start\|>\s*(\w+)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)
_LLAMA = re.compile(r"\[INST\](.*?)(?:\[/INST\](.*?)(?=<s>|\[INST\]|\Z)|\Z)", re.DOTALL)
_END = "<|endoftext|>"
_LLAMA_MARKS = re.compile(r"</?s>|<</?SYS>>")


def is_conversation(value: object) -> bool:
    """Whether a cell is a list of turns, each a role and a text, or a question and its answer.

    Example:
        >>> is_conversation([{"from": "human", "value": "hi"}]), is_conversation([{"text": "a"}])
        (True, False)
    """
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(turn, Mapping) and (_role_key(turn) or _pair(turn)) for turn in value)


def is_transcript(text: object) -> bool:
    """Whether a text is a transcript with both speakers.

    Example:
        >>> is_transcript("Human: hi\\nAssistant: hello"), is_transcript("Human: hi")
        (True, False)
    """
    return isinstance(text, str) and len(_transcript(text)) > 1


def conversation_turns(value: object) -> tuple[list[Turn], str] | None:
    """Return the turns before the last answer, and that answer; None if the cell holds none.

    The roles are system, assistant and, for all others, user.

    Example:
        >>> turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
        >>> conversation_turns(turns)
        ([('user', 'hi')], 'hello')
        >>> conversation_turns("\\n\\nHuman: hi\\n\\nAssistant: hello")
        ([('user', 'hi')], 'hello')
        >>> conversation_turns([*turns, {"role": "user", "content": "so"},
        ...                     {"role": "assistant", "content": "no", "weight": 0}])
        ([('user', 'hi')], 'hello')
    """
    if isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, (list, tuple)):
        return None
    if any(isinstance(turn, Mapping) and turn.get("weight") == 0 for turn in value):
        value = value[: max((i for i, turn in enumerate(value, 1) if _is_learned(turn)), default=0)]
    turns = _sides(value)
    answers = [i for i, (role, _) in enumerate(turns) if role == ASSISTANT]
    last = answers[-1] if answers else len(turns)
    return turns[:last], turns[last][1] if answers else ""


def _is_learned(turn: object) -> bool:
    """Whether a turn is an answer to learn from, of which OpenAI's weight is not 0."""
    return isinstance(turn, Mapping) and turn.get("weight") != 0 and _turn(turn)[0] in _ANSWERERS


def conversation_sides(value: Sequence[Any]) -> list[Turn]:
    """Return all turns, with the roles system, assistant and, for all others, user.

    Turns of people, none of whom is the user, become one with their names.

    Example:
        >>> conversation_sides([{"speaker": "Ann", "text": "hi"}, {"speaker": "Bo", "text": "ho"}])
        [('user', 'Ann: hi\\nBo: ho')]
        >>> conversation_sides([{"role": "user", "content": "hi"}, {"role": "pi", "content": "ho"}])
        [('user', 'hi'), ('assistant', 'ho')]
    """
    turns = list(_turns(value))
    if unknown_roles([value])[1] and _USERS.isdisjoint(role for role, _ in turns):
        return [(USER, "\n".join(f"{role.title()}: {text}" for role, text in turns))]
    return _sides(value)


def _sides(value: Sequence[Any]) -> list[Turn]:
    turns = list(_turns(value))
    sides = dict.fromkeys(answerers([role for role, _ in turns]), ASSISTANT)
    sides |= dict.fromkeys(_SYSTEM, SYSTEM)
    return [(sides.get(role, USER), text) for role, text in turns]


def answerers(roles: Sequence[str]) -> set[str]:
    """Return the roles that answer: known ones, or of two alternating ones, not the user's.

    Example:
        >>> answerers(["human", "gpt"]), answerers(["bard", "human"]), answerers(["Ann", "Bob"])
        ({'gpt'}, {'bard'}, {'Bob'})
    """
    known = _ANSWERERS & set(roles)
    speakers = [role for role in roles if role not in _OTHERS]
    if known or len(set(speakers)) != 2 or any(a == b for a, b in pairwise(speakers)):
        return known
    return {speakers[0] if speakers[1] in _USERS else speakers[1]}


def unknown_roles(values: Sequence[object]) -> tuple[set[str], set[str]]:
    """Return the unknown roles in conversations: those that answer, and all of them."""
    found = [[role for role, _ in _turns(v)] for v in values if isinstance(v, (list, tuple))]
    others = {*_ANSWERERS, *_OTHERS, *_USERS}
    return {r for roles in found for r in answerers(roles)} - others, set().union(*found) - others


def conversation_text(value: Sequence[Any]) -> str:
    """Return all turns as one text."""
    return one_text(_turns(value))


def _turns(value: Sequence[Any]) -> Iterator[Turn]:
    for index, turn in enumerate(value):
        if isinstance(turn, str):  # two speakers in turn
            yield ("user", "assistant")[index % 2], turn
        elif isinstance(turn, tuple):
            yield turn
        elif isinstance(turn, Mapping):
            pair = None if _role_key(turn) else _pair(turn)
            if pair:
                yield "user", _content(turn[pair[0]])
                yield "assistant", _content(turn[pair[1]])
            else:
                yield _turn(turn)


def _role_key(turn: Mapping[str, Any]) -> str | None:
    if not any(key in turn for key in _TEXT_KEYS):
        return None
    return next((key for key in _ROLE_KEYS if isinstance(turn.get(key), str)), None)


def _pair(turn: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if pair[0] in turn and pair[1] in turn), None)


def _turn(turn: Mapping[str, Any]) -> Turn:
    role = str(turn.get(_role_key(turn) or "role") or "").lower()
    return role, "\n".join(filter(None, [_content(turn), *_calls(turn.get("tool_calls"))]))


def _calls(calls: object) -> Iterator[str]:
    """Yield each tool call as JSON, with its name and arguments."""
    for call in calls if isinstance(calls, (list, tuple)) else ():
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and function.get("name"):
            called = {"name": function["name"], "arguments": from_json(function.get("arguments"))}
            yield json.dumps(called, ensure_ascii=False, default=str)


def _content(content: object) -> str:
    if isinstance(content, (list, tuple)):
        return "".join(_content(part) for part in content if not _is_image(part))
    if isinstance(content, Mapping):
        return next((_content(content[key]) for key in _TEXT_KEYS if content.get(key)), "")
    return str(content or "")


def _is_image(part: object) -> bool:
    """Whether a part of a turn is an image, a sound or another thing that is not text."""
    return isinstance(part, Mapping) and "text" not in str(part.get("type") or "text")


def _parsed(text: str) -> list[Any] | list[Turn] | None:
    """Return the turns of a transcript, or of a list that a file stores as JSON."""
    if text.lstrip().startswith("["):
        found = from_json(text)
        if isinstance(found, list):
            return found
    return _transcript(text) or None


def _transcript(text: str) -> list[Turn]:
    """Return the turns of a transcript; none if the text does not begin with a speaker.

    The forms are ``Human: …``, ChatML, and that of Llama 2.

    Example:
        >>> _transcript("<s>[INST] hi [/INST] hello </s>")
        [('user', 'hi'), ('assistant', 'hello')]
        >>> _transcript("<|im_start|>user\\nhi<|im_end|>\\n<|im_start|>assistant\\nhello<|im_end|>")
        [('user', 'hi'), ('assistant', 'hello')]
    """
    text = text.replace(_END, "").lstrip()
    if text.startswith("<|im_start|>"):
        return [(role.lower(), words.strip()) for role, words in _CHATML.findall(text)]
    if text.removeprefix("<s>").lstrip().startswith("[INST]"):
        found = (pair.groups() for pair in _LLAMA.finditer(text))
        parts = [part for pair in found for part in pair if pair[1] is not None]
        return [
            (("user", "assistant")[i % 2], _LLAMA_MARKS.sub("", part).strip())
            for i, part in enumerate(parts)
        ]
    if not _SPEAKER.match(text):
        return []
    parts = _SPEAKER.split(text)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    roles = {"human": "user", "bot": "assistant", "ai": "assistant"}
    return [(roles.get(r.lower(), r.lower()), words.strip()) for r, words in pairs]
