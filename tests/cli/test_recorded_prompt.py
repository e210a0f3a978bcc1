"""The prompt of ``try`` as an adapter's recipe has it."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.cli.export_and_try import _recorded_prompt
from hf_lorameta.errors import AdapterError
from tests.conftest import Built, Shell, rows


@pytest.fixture
def adapter(cli: Shell, bank: Built, tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    cli("generate", "rows.jsonl", "--bank", bank.folder, "-o", "a")
    return tmp_path / "a"


def test_a_recipe_of_another_version_is_an_error_that_says_what_to_do(adapter: Path) -> None:
    def set_columns(**columns: Any) -> None:
        recipe = json.loads((adapter / "recipe.json").read_bytes())
        recipe["dataset"]["columns"] = columns
        (adapter / "recipe.json").write_text(json.dumps(recipe))

    set_columns(persona="who", output="text")
    with pytest.raises(AdapterError, match="columns that this version does not know") as raised:
        _recorded_prompt(adapter)
    assert "--template" in raised.value.hint
    set_columns(messages="messages", template="<u>{prompt}<m>")
    assert _recorded_prompt(adapter)("hi") == "<u>hi<m>"
    set_columns(messages="messages")
    assert _recorded_prompt(adapter)("hi") == "hi"
    set_columns(messages="messages", instruction_text="Be brief.")
    assert _recorded_prompt(adapter)("hi") == "Be brief.\n\nInput: hi\nOutput:"
    set_columns(instruction="task", input="input", output="output")
    assert _recorded_prompt(adapter)("hi") == "hi"
