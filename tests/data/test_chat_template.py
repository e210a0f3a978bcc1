"""The chat template of a base model as a template: as transformers applies it, and in use."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing

from hf_lorameta.data.chat_template import chat_template
from hf_lorameta.data.prompt import join_instruction
from hf_lorameta.errors import UsageError

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{- bos_token }}\n{%- for message in messages %}\n    {{- '<|start|>' + message['role'] + "
    "'<|end|>\n\n' + message['content'] | trim + '<|eot|>' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|start|>assistant<|end|>\n\n' }}\n{%- endif %}\n"
)
TRAINING = (
    "{% for m in messages %}<{{ m.role }}>{% generation %}\n{{ m.content }}{% endgeneration %}\n"
    "{% endfor %}{% if tools is not none %}tools{% endif %}"
)
REFUSING = "{{ raise_exception('no system prompt') }}"


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


def template_of(folder: Path) -> str:
    return chat_template(str(folder), folder / "tokenizer.json")


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("source", [CHATML, LLAMA, TRAINING], ids=["ChatML", "Llama", "marks"])
def test_prompts_are_as_transformers_writes_them(
    tmp_path: Path, source: str, starts: bool, in_file: bool, torch: object
) -> None:
    from transformers import AutoTokenizer

    folder = base(tmp_path / "base", source, starts=starts, in_file=in_file)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    message = [{"role": "user", "content": "Name the animal."}]
    expected = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    prompt = join_instruction("Name the animal.", "", template_of(folder))
    assert prompt == (expected.removeprefix("<s>") if starts else expected)


def test_a_base_model_without_a_usable_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fails on a message"):
        template_of(base(tmp_path / "a", REFUSING, starts=False))
    with pytest.raises(UsageError, match="does not show a message as it is"):
        template_of(base(tmp_path / "b", "{{ messages | length }}", starts=False))
    folder = base(tmp_path / "c", "", starts=False)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UsageError, match="has no chat template") as raised:
        template_of(folder)
    assert "leave out --template chat" in raised.value.hint


def test_a_chat_template_cannot_run_code(tmp_path: Path) -> None:
    source = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(UsageError, match="SecurityError"):
        template_of(base(tmp_path / "base", source, starts=False))
