"""The chat template of a base model as a template of prompts.

A chat template is a program that turns a list of messages into a text. Here it runs once, on one
message of the user, so that what is around the message can be recorded in a recipe and is the same
in every later version of the base model.
"""

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
_CONFIG_FILE, _TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"


def chat_form(
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
    source, config = _chat_template(base_model, revision, token)
    texts = {name: _text(config.get(name)) for name in ("bos_token", "eos_token")}
    rendered = _render(source, base_model, texts)
    if rendered.count(PROMPT) != 1:
        raise UsageError(f"the chat template of {base_model} does not show a message as it is")
    starts = bool(load_tokenizer(tokenizer).encode("").ids)
    return rendered.removeprefix(texts["bos_token"]) if starts else rendered


def _chat_template(
    base_model: str, revision: str | None, token: Token
) -> tuple[str, dict[str, Any]]:
    """Return the source of the chat template, and the content of ``tokenizer_config.json``."""
    hint = Option("template", CHAT, "leave out"), Option("template", "Question: {prompt}")
    try:
        path = base_file(base_model, _CONFIG_FILE, revision, token)
    except NotFoundError as error:
        raise UsageError(f"no chat template: {error}", hint=hint) from None
    if path.suffix == ".gguf":
        config = tokenizer_config(read_metadata(path))
    else:
        config = read_object(path, base_model)
        with suppress(HubError):  # older models have it in the config
            file = base_file(base_model, _TEMPLATE_FILE, revision, token)
            return file.read_text("utf-8"), config
    source = config.get("chat_template")
    if isinstance(source, list):  # several, by name
        named = {str(one.get("name")): one.get("template") for one in source}
        source = named.get("default")
    if not isinstance(source, str):
        raise UsageError(f"{base_model} has no chat template", hint=hint)
    return source, config


def _render(source: str, base_model: str, texts: dict[str, str]) -> str:
    """Run a chat template on one message, in the sandbox that `transformers` uses as well."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(source).render(
            messages=[{"role": "user", "content": PROMPT}], add_generation_prompt=True, **texts
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise UsageError(
            f"the chat template of {base_model} fails on a message: {type(error).__name__}"
        ) from None


def _refuse(message: str) -> None:
    raise ValueError(message)


def _text(value: Any) -> str:
    return str(value.get("content", "") if isinstance(value, dict) else value or "")
