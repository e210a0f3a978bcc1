"""What a card gives people to paste holds hostile values unchanged, and runs nothing of them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.bank.index import NO_BANK
from hf_lorameta.cards.gguf_usage import render_modelfile
from hf_lorameta.cards.model_card import render_card
from hf_lorameta.cards.results import Outcome, Training
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.prompt import from_option
from hf_lorameta.quoting import shell, shell_file
from tests.cards.examples import PLAIN, command_of, of_dataset
from tests.support.pasting import HOSTILE, SHELLS, blocks_of, commands_of, strings_of


@pytest.mark.parametrize("shell_name", SHELLS)
def test_words_arrive_unchanged(shell_name: str, tmp_path: Path) -> None:
    words = [*HOSTILE, *map("x{}y\n".format, HOSTILE), "", "\n", "\n\na\n\n", "a\0b"]
    ran = commands_of(shell("hf", *words), shell_name, tmp_path)
    assert ran == [["hf", *words[:-1], "ab"]]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_quote_of_powershell_and_no_word_at_the_start_of_a_line_is_left(text: str) -> None:
    """PowerShell, which is not run here, knows other quotes, and no lines that go on."""
    written = shell_file(f"pwned\n{text}", "Modelfile")
    assert not set("‘’‚‛") & set(written + shell("hf", text))
    first, *lines = written.splitlines()
    assert first.startswith("printf ")
    assert all(re.match(r"    ['\"]", line) for line in lines)


@pytest.mark.parametrize("text", HOSTILE)
def test_all_blocks_of_cards(text: str, tmp_path: Path) -> None:
    columns = Columns(
        input=text, output=text, instruction_text=text, template=f"{{instruction}}{text}{{input}}"
    )
    names = dict.fromkeys(("base_model", "base_revision", "bank_revision"), text)
    told = {"instruction": text, "template": columns.template}
    changes: dict[str, Any] = {
        "command": command_of(config=text, split=text, columns=columns, **told)
    }
    changes |= names | of_dataset(columns=columns, config=text, split=text)
    merged = replace(PLAIN, **changes, gguf=True, example=(text, text))
    training = Training(rows=16, steps=24, seen=16, labeled=16)
    alone: dict[str, Any] = {
        "bank_id": NO_BANK,
        "neighbors": (),
        "outcome": Outcome(training=training),
    }
    for card in (merged, replace(merged, **alone)):
        for repo_id in (None, f"me/{text}"):
            ran, strings = [], set()
            for language, code in blocks_of(render_card(card, repo_id)):
                if language == "python":
                    strings |= strings_of(code)
                elif language == "bash":
                    ran += commands_of(code, "sh", tmp_path)
            assert text in strings
            assert card.command in ran
            stated = card.command[card.command.index("--instruction") + 1]
            assert from_option(stated) == text
            assert text in card.command


@pytest.mark.parametrize("text", HOSTILE)
def test_a_modelfile_has_the_lines_of_its_own(text: str) -> None:
    columns = Columns(input="a", output="b", instruction_text=text)
    comment, _, lines = render_modelfile(text, columns).partition("\n")
    assert comment.startswith("#")
    before, template, after = lines.split('"""')
    assert before == "FROM ./base.gguf\nADAPTER ./adapter.gguf\nTEMPLATE "
    assert template in (columns.prompt_of("{{ .Prompt }}"), "{{ .Prompt }}")
    assert [line.split()[0] for line in after.split("\n") if line] == ["PARAMETER"] * 2


def test_a_modelfile_passes_prompts_on_if_their_form_reads_as_a_template() -> None:
    columns = Columns(input="text", template="{{ .System }} {input}")
    assert '\nTEMPLATE """{{ .Prompt }}"""\n' in render_modelfile("org/x", columns)
