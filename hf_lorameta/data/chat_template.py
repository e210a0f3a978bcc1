"""The chat template of a base model as a template of prompts.

A chat template is a program that turns a list of messages into a text. Here it runs once, on one
message of the user, so that what is around the message can be recorded in a recipe and is the same
in every later version of the base model.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hf_lorameta.data.counts.tokenizer import load_tokenizer
from hf_lorameta.data.prompt import PROMPT
from hf_lorameta.errors import HubError, NotFoundError, Option, UsageError
from hf_lorameta.formats.gguf_metadata import read_metadata
from hf_lorameta.hub.base_model import base_file, read_object
from hf_lorameta.hub.packaged_model import tokenizer_config
from hf_lorameta.hub.repo import Token

CHAT = "chat"
"""The template that stands for the base model's own chat template."""
_HINT = Option("template", CHAT, "leave out"), Option("template", "Question: {prompt}")
_CONFIG_FILE, _TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
_GENERATION = re.compile(r"(\{%-?\s*)(end)?generation\b")


def chat_template(
    base_model: str, tokenizer: Path, revision: str | None = None, token: Token = None
) -> str:
    """Return a base model's chat template as a template with ``{prompt}``.

    Args:
        base_model: Hub id or folder.
        tokenizer: its ``tokenizer.json``. A start token that it puts before every text is left out.
        revision: of the base model.
        token: of the Hub; None uses the saved one.

    Raises:
        UsageError: the base model has no chat template, or one that fails on a single message.
        HubError: the base model cannot be reached.
    """
    config = _config(base_model, revision, token)
    starts = bool(load_tokenizer(tokenizer).encode("").ids)
    return rendered(config, base_model, starts=starts)


def rendered(config: Mapping[str, Any], base_model: str, *, starts: bool) -> str:
    """Return the chat template of a tokenizer's config as a template with ``{prompt}``.

    Args:
        config: with ``chat_template``, its source, or sources by name, and the special tokens.
        base_model: its name, for errors.
        starts: whether the tokenizer puts its start token before every text.

    Raises:
        UsageError: there is no chat template, or it fails on a single message.

    Example:
        >>> source = "{% for m in messages %}{{ bos_token }}[{{ m.content }}]{% endfor %}"
        >>> rendered({"chat_template": source, "bos_token": "<s>"}, "base", starts=False)
        '<s>[{prompt}]'
    """
    source = config.get("chat_template")
    if isinstance(source, list):
        source = {one.get("name"): one.get("template") for one in source}
    if isinstance(source, Mapping):
        source = source.get("default")
    if not isinstance(source, str) or not source:
        raise UsageError(f"{base_model} has no chat template", hint=_HINT)
    texts = {name: _text(config.get(name)) for name in ("bos_token", "eos_token")}
    template = _run(source, base_model, texts)
    if template.count(PROMPT) != 1:
        raise UsageError(f"the chat template of {base_model} does not show a message as it is")
    return template.removeprefix(texts["bos_token"]) if starts else template


def _config(base_model: str, revision: str | None, token: Token) -> dict[str, Any]:
    """Return the content of ``tokenizer_config.json``, with the chat template."""
    try:
        path = base_file(base_model, _CONFIG_FILE, revision, token)
    except NotFoundError as error:
        raise UsageError(f"no chat template: {error}", hint=_HINT) from None
    if path.suffix == ".gguf":
        return tokenizer_config(read_metadata(path))
    config: dict[str, Any] = read_object(path, base_model)
    with suppress(HubError):  # older models have it in the config
        file = base_file(base_model, _TEMPLATE_FILE, revision, token)
        config["chat_template"] = file.read_text("utf-8")
    return config


def _run(source: str, base_model: str, texts: dict[str, str]) -> str:
    """Run a chat template on one message, in the sandbox that `transformers` uses as well."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    # a block of `transformers` that marks answers for training
    source = _GENERATION.sub(lambda tag: f"{tag[1]}{'endif' if tag[2] else 'if true'}", source)
    message = {"role": "user", "content": PROMPT}
    try:
        return environment.from_string(source).render(
            messages=[message], tools=None, documents=None, add_generation_prompt=True, **texts
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise UsageError(
            f"the chat template of {base_model} fails on a message: {type(error).__name__}"
        ) from None


def _refuse(message: str) -> None:
    raise ValueError(message)


def _text(value: Any) -> str:
    return str(value.get("content", "") if isinstance(value, Mapping) else value or "")
