"""Run the chat template of a base model, to get the form of its prompts.

A chat template is a program that turns a list of messages into a text. Here it runs on a few
messages, in its mode without thinking, so that the text around them can be recorded in a recipe,
and is the same in later versions of the base model and on any day.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from hf_lorameta.data.chat_form import ASSISTANT, CHAT, SYSTEM, USER, ChatForm, ChatMode, Turn
from hf_lorameta.data.counts.tokenizer import load_tokenizer
from hf_lorameta.data.prompt import PROMPT
from hf_lorameta.errors import HubError, NotFoundError, Option, UsageError
from hf_lorameta.formats.gguf_metadata import read_metadata
from hf_lorameta.hub.base_model import base_file, find_at_hand, read_object
from hf_lorameta.hub.packaged_model import tokenizer_config
from hf_lorameta.hub.repo import Token

_CONFIG_FILE, _TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
_TODAY = datetime(2024, 7, 26)
"""The date that templates get as today's: the one that Llama 3.2's writes if it is given none."""
_DATE_STRING = "%d %b %Y"
_SWITCHES: Mapping[str, bool | int] = {
    "enable_thinking": False, "thinking": False, "thinking_budget": 0,
}  # fmt: skip
"""Arguments of templates that turn thinking off: those of Qwen and most others, of Granite and
DeepSeek, and of Seed-OSS."""
_NO_THINK = "/no_think"
_THOUGHTS = {
    "<think>": "</think>", "<seed:think>": "</seed:think>", "[THINK]": "[/THINK]",
    "<thinking>": "</thinking>", "<|START_THINKING|>": "<|END_THINKING|>",
}  # fmt: skip
"""What thinking blocks begin and end with."""
_ANSWER, _MORE, _ANSWER_2, _MORE_2, _RULE = "{answer}", "{more}", "{answer 2}", "{more 2}", "{rule}"


class _TemplateFailureError(Exception):
    """A chat template failed; the message is the name of its error."""


def find_chat_form(
    base_model: str, tokenizer: Path, revision: str | None = None, token: Token = None
) -> ChatForm | None:
    """Return the form of a base model's chat template; None if it has none.

    Args:
        base_model: Hub id or folder.
        tokenizer: its ``tokenizer.json``.
        revision: of the base model.
        token: of the Hub; None uses the saved one.

    Raises:
        UsageError: the chat template fails on a single message.
        HubError: the base model cannot be reached.
    """
    config = _config(base_model, revision, token)
    start = _special_texts(config).get("bos_token")
    starts = start in load_tokenizer(tokenizer).encode("").tokens
    return form_of(config, base_model, starts=starts)


def require_chat_form(form: ChatForm | None, base_model: str) -> ChatForm:
    """Return the form; raise `UsageError` if there is none."""
    if form is None:
        raise UsageError(
            f"{base_model} has no chat template",
            code="template.no-chat",
            hint=(Option("template", CHAT, "leave out"), Option("template", "Question: {prompt}")),
        )
    return form


def form_of(config: Mapping[str, Any], base_model: str, *, starts: bool) -> ChatForm | None:
    """Return the form that the chat template of a tokenizer's config writes; None without one.

    Args:
        config: with ``chat_template``, its source, or sources by name, and the special tokens.
        base_model: its name, for errors.
        starts: whether the tokenizer puts its start token before every text.

    Raises:
        UsageError: the chat template fails on a single message, or does not show it.

    Example:
        >>> source = "{% for m in messages %}{{ bos_token }}[{{ m.content }}]{% endfor %}"
        >>> form_of({"chat_template": source, "bos_token": "<s>"}, "base", starts=False).template
        '<s>[{prompt}]'
    """
    source = config.get("chat_template")
    if isinstance(source, list):
        named = (one for one in source if isinstance(one, Mapping))
        source = {one.get("name"): one.get("template") for one in named}
    if isinstance(source, Mapping):
        source = source.get("default")
    if not isinstance(source, str) or not source:
        return None
    texts = _special_texts(config)
    try:
        template = _Template(source, texts)
        text = template.text((USER, PROMPT))
    except _TemplateFailureError as error:
        raise UsageError(
            f"the chat template of {base_model} fails on a message: {error}",
            code="template.chat-fails",
            hint=Option("template", PROMPT),
        ) from None
    if text.count(PROMPT) != 1:
        raise UsageError(
            f"the chat template of {base_model} does not show a message as it is",
            code="template.chat-alters-message",
            hint=Option("template", PROMPT),
        )
    bos = texts.get("bos_token", "")
    begins = bool(bos) and text.startswith(bos)
    start = bos if starts and begins else ""
    closing = template.closing(text)
    before, behind = template.around_answer
    between, around_system = template.pieces(text)
    mode = ChatMode(
        chat_template_kwargs=template.kwargs,
        system=template.system,
        closing=closing,
        date=_TODAY.date().isoformat() if template.asked_date else None,
        strips=template.text((USER, f" {PROMPT} ")) == text,
        content_parts=template.content_parts,
        unspaced=bool(before) and not before[-1].isspace(),
        end=behind,
        between=between,
        around_system=around_system and (around_system[0].removeprefix(start), around_system[1]),
        applies=not template.asked_date and (begins or not starts),
    )
    return ChatForm(text.removeprefix(start) + closing, mode)


def _special_texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens of a tokenizer's config by name, as a template sees them."""
    texts = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(text, str):
            texts[name] = text
    return texts


def _config(base_model: str, revision: str | None, token: Token) -> dict[str, Any]:
    """Return the content of ``tokenizer_config.json``, with the chat template; empty without it."""
    try:
        path = base_file(base_model, _CONFIG_FILE, revision, token)
        if path.suffix == ".gguf":
            return tokenizer_config(read_metadata(path))
        config: dict[str, Any] = read_object(path, base_model)
    except NotFoundError:
        config = {}
    try:
        file = base_file(base_model, _TEMPLATE_FILE, revision, token)
        config["chat_template"] = file.read_text("utf-8")
    except NotFoundError:
        pass  # older models have it in the config
    except HubError:  # a model that is complete in the cache has no such file
        if "chat_template" not in config and find_at_hand(base_model, revision) is None:
            raise
    return config


# --- running a template ---------------------------------------------------------------------------


class _Template:
    """A chat template in its mode without thinking, run in the sandbox of transformers.

    Raises:
        _TemplateFailureError: it is not a template, or fails on a user's message.
    """

    def __init__(self, source: str, texts: Mapping[str, str]) -> None:
        from jinja2 import meta

        environment = _environment()
        environment.globals["strftime_now"] = self._today
        with _named_failures():
            self._template, self._texts = environment.from_string(source), texts
            known = meta.find_undeclared_variables(environment.parse(source))
        self.kwargs: dict[str, bool | int | str] = {
            name: value for name, value in _SWITCHES.items() if name in known
        }
        if "date_string" in known:
            self.kwargs["date_string"] = _TODAY.strftime(_DATE_STRING)
        self.system = _NO_THINK if _NO_THINK in source and not self.kwargs else ""
        self.asked_date = self.content_parts = False
        if PROMPT not in self.text((USER, PROMPT)):
            self.content_parts = True

    def _today(self, form: str) -> str:
        self.asked_date = True
        return _TODAY.strftime(form)

    def text(self, *turns: Turn, prompt: bool = True) -> str:
        """Return turns as the template writes them, with the beginning of an answer to them."""
        system = [(SYSTEM, self.system)] if self.system else []
        if system and turns[0][0] == SYSTEM:
            system, turns = [(SYSTEM, f"{self.system}\n{turns[0][1]}")], turns[1:]
        messages = [
            {"role": role, "content": [{"type": "text", "text": t}] if self.content_parts else t}
            for role, t in (*system, *turns)
        ]
        values: dict[str, Any] = {"tools": None, "documents": None, **self._texts, **self.kwargs}
        with _named_failures():
            return str(
                self._template.render(messages=messages, add_generation_prompt=prompt, **values)
            )

    def closing(self, text: str) -> str:
        """Return what closes a thinking block at the end of a prompt, or else begins answers."""
        for opened, closed in _THOUGHTS.items():
            if text.rstrip().endswith(opened):
                return f"\n{closed}\n\n" if text[-1].isspace() else closed
        begun = text != self.text((USER, PROMPT), prompt=False)
        before, _, rest = self.around_answer[0].partition(text)
        return rest if begun and not before and rest.strip() else ""

    @cached_property
    def around_answer(self) -> tuple[str, str]:
        """What is around the answer to a single message; empty if the template fails on it."""
        with suppress(_TemplateFailureError):
            answered = self.text((USER, PROMPT), (ASSISTANT, _ANSWER), prompt=False)
            before, found, behind = answered.partition(_ANSWER)
            return (before, behind) if found else ("", "")
        return "", ""

    def pieces(self, text: str) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
        """Return `ChatMode.between` and `ChatMode.around_system`, if longer chats consist of them.

        Args:
            text: of a single message.
        """
        start, end = text.split(PROMPT)
        chat = ((USER, PROMPT), (ASSISTANT, _ANSWER), (USER, _MORE))
        longer = (*chat, (ASSISTANT, _ANSWER_2), (USER, _MORE_2))
        found = self._split(*chat) or []
        between = (found[1], found[2]) if found else ("", "")
        expected = [start, *between, *between, end]
        several = bool(found) and self._split(*longer) == expected
        rule = (SYSTEM, _RULE)
        before, behind, *rest = self._split(rule, chat[0]) or ["", "", ""]
        has_system = rest == [end]
        if has_system and several:
            has_system = self._split(rule, *chat) == [before, behind, *between, end]
        return between if several else None, (before, behind) if has_system else None

    def _split(self, *turns: Turn) -> list[str] | None:
        """Return the texts around the turns; None if the template fails on or changes them."""
        texts: list[str] = []
        rest = ""
        with suppress(_TemplateFailureError):
            rest = self.text(*turns)
        for _, content in turns:
            before, found, rest = rest.partition(content)
            if not found or content in rest:
                return None
            texts.append(before)
        return [*texts, rest]


@contextmanager
def _named_failures() -> Iterator[None]:
    """Turn the errors of a template that does not fit into a `_TemplateFailureError`."""
    from jinja2 import TemplateError

    wrong = (
        TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError,
        MemoryError,
    )  # fmt: skip
    try:
        yield
    except (TemplateError, *wrong) as error:
        raise _TemplateFailureError(type(error).__name__) from None


def _environment() -> Any:
    """Return the environment that transformers runs chat templates in."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The blocks that mark answers for training."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    return environment


def _refuse(message: str) -> None:
    raise ValueError(message)
