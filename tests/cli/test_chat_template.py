"""``--template chat``: banks and adapters in the form of the base model's own chat template."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.cards.gguf_usage import MODELFILE
from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.cli.output import show_row
from tests.cli.conftest import fake_evaluator
from tests.conftest import BASE_CONFIG, Account, Shell, rows, tokenizer_json

START, END = "<|user|>\n", "<|end|>\n<|model|>\n"
FORM = f"{START}{{prompt}}{END}"
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|model|>\n{% endif %}"
)
CONFIG = json.dumps(BASE_CONFIG | {"num_hidden_layers": 2, "hidden_size": 8}).encode()


@pytest.fixture
def chat_bank(cli: Shell, user: Account, tmp_path: Path) -> Path:
    """A bank whose manifest asks for the chat template of its base model."""
    base = f"{user.name}/chatty"
    files = {"tokenizer.json": tokenizer_json(), "config.json": json.dumps(BASE_CONFIG).encode(),
             "tokenizer_config.json": b"{}", "chat_template.jinja": TEMPLATE.encode()}  # fmt: skip
    cli.hub.create_repo(base)
    cli.hub.commit(base, dict(files))
    for topic in range(2):
        user.entry(f"chat{topic}", topic, base=base)
    manifest = {"version": 1, "base_model": base, "defaults": {"template": "chat"}}
    (tmp_path / "m.yaml").write_text(json.dumps(manifest | {"entries": user.entries}))
    cli("bank", "build", "m.yaml", "-o", "chat-bank")
    return tmp_path / "chat-bank"


def test_bank_adapter_card_and_evaluate_have_the_form_of_the_chat_template(
    cli: Shell, user: Account, chat_bank: Path, tmp_path: Path
) -> None:
    index = json.loads((chat_bank / "bank.json").read_bytes())
    assert {entry["columns"]["template"] for entry in index["entries"]} == {FORM}
    dataset = user.dataset("words", {"train.jsonl": rows(1), "test.jsonl": rows(1, 9)})
    command = ("generate", "-d", dataset, "--bank", chat_bank)
    cli(*command, "--template", "chat", "-o", "a", "--export", "gguf")
    recipe = json.loads((tmp_path / "a" / "recipe.json").read_bytes())
    assert recipe["dataset"]["columns"]["template"] == FORM
    card = (tmp_path / "a" / CARD_FILE).read_text()
    assert 'messages = [{"role": "user", "content": "the input of a row"}]\nprompt = ' in card
    assert (
        "The prompt is in the base model's chat form, as chat requests to a server get it." in card
    )
    [example] = [line for line in card.splitlines() if line.startswith('prompt = "')]
    assert ast.literal_eval(example.removeprefix("prompt = ")).startswith(f"{START}say ")
    again = card.partition("## How to reproduce it")[2]
    assert "--template chat " in again
    modelfile = (tmp_path / "a" / MODELFILE).read_text()
    assert f'TEMPLATE """{START}{{{{ .Prompt }}}}{END}"""' in modelfile
    scored = cli("evaluate", "a", "--json", "--shots", 0, before=fake_evaluator())
    assert json.loads(scored.out)["samples"][0]["input"].startswith(f"{START}say ")


def test_a_bank_in_chats_has_prompts_put_into_its_chat_format(
    cli: Shell, chat_bank: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    made = cli("generate", "rows.jsonl", "--bank", chat_bank, "-o", "a")
    assert "chat format" in made.err
    recipe = json.loads((tmp_path / "a" / "recipe.json").read_bytes())
    assert recipe["dataset"]["columns"]["template"] == FORM


def test_an_instruction_is_within_the_message(cli: Shell, chat_bank: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    options = ("--template", "chat", "--instruction", "Say more.")
    read = cli("plan", "rows.jsonl", "--bank", chat_bank, *options).err
    shown = show_row((f"{START}Say more.\n\nInput: say bread\nOutput:{END}", "milk bread"))
    assert shown in read


@pytest.fixture
def hybrid_base(cli: Shell, user: Account) -> str:
    """A base model without a bank, whose chat template turns thoughts off."""
    base = f"{user.name}/hybrid"
    template = TEMPLATE + "{% if enable_thinking is false %}<think></think>{% endif %}"
    files = {"tokenizer.json": tokenizer_json(), "config.json": CONFIG,
             "tokenizer_config.json": json.dumps({"chat_template": template}).encode()}  # fmt: skip
    cli.hub.create_repo(base)
    cli.hub.commit(base, dict(files))
    return base


def test_without_a_bank_the_chat_form_is_the_default(
    cli: Shell, hybrid_base: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(rows(1))

    command = ("plan", "rows.jsonl", "--bank", "none", "--base", hybrid_base, "--json")

    def columns(*options: str) -> Any:
        return json.loads(cli(*command, *options).out)["dataset"]["columns"]

    form = f"{FORM}<think></think>"
    read = columns()
    assert read["template"] == form
    assert read["chat"]["chat_template_kwargs"] == {"enable_thinking": False}
    assert columns("--template", "chat") == {n: v for n, v in read.items() if "text" not in n}
    said = columns("--instruction", "Say more.")
    assert (said["template"], said["instruction_text"]) == (form, "Say more.")
    for plain in (("--template", "{prompt}"), ("--instruction", "")):
        assert columns(*plain)["template"] == "{prompt}"
        assert "chat" not in columns(*plain)


def test_a_base_model_without_a_chat_template_keeps_the_plain_form(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    base = f"{user.name}/plain"
    cli.hub.create_repo(base)
    cli.hub.commit(base, {"tokenizer.json": tokenizer_json(), "config.json": CONFIG})
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    command = ("plan", "rows.jsonl", "--bank", "none", "--base", base, "--json")
    assert "chat" not in json.loads(cli(*command).out)["dataset"]["columns"]
    refused = cli(*command, "--template", "chat", code=2)
    assert "has no chat template" in refused.err
