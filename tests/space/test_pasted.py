"""What the page gives people to paste holds hostile values unchanged, and runs nothing of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import settings
from hf_lorameta import plan
from hf_lorameta.cards.gguf_usage import render_modelfile
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.prompt import from_option
from hf_lorameta.demo.run import DATA_FOLDER
from hf_lorameta.pipeline.plan import Plan
from tests.support.pasting import HOSTILE, SHELLS, blocks_of, commands_of, strings_of
from views import result as result_view
from work.planning import PageRequest, PlanResult


@pytest.fixture(scope="module")
def tickets() -> Plan:
    return plan(DATA_FOLDER / "train.jsonl")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("text", HOSTILE)
def test_all_blocks_of_the_page(text: str, shell: str, tickets: Plan, tmp_path: Path) -> None:
    template = f"{{instruction}}{text}{{input}}"
    columns = Columns(input=text, output=text, instruction_text=text, template=template)
    of = replace(tickets, dataset=replace(tickets.dataset, columns=columns))
    prompt = columns.prompt_of(text)
    result = PlanResult(of, [(prompt, "a")], PageRequest(file="x"))
    chosen: dict[str, Any] = {
        "config": text,
        "split": text.replace(",", ""),  # a comma is between splits
        "instruction": text,
        "template": template,
    }
    for request in (
        PageRequest(dataset="user/data", columns=columns, **chosen),
        PageRequest(file=f"/tmp/{text.replace('/', '')}.csv", columns=columns, **chosen),
    ):
        own = settings.SpaceSettings(space_id=f"user/{text}")
        ran, strings = [], set()
        shown = result_view.usage_markdown(result, request, f"./{text}", own)
        other = result_view.other_base_markdown(of, request, own)
        for language, code in blocks_of(f"{shown}\n\n{other}"):
            if language == "python":
                strings |= strings_of(code)
                continue
            ran += commands_of(code, shell, tmp_path)
        assert {prompt, f"./{text}"} <= strings
        assert ["hf-lorameta", "try", f"./{text}", "--prompt", text] in ran
        assert ["unzip", f"{text}.zip", "-d", f"./{text}"] in ran
        assert ["pip", "install", "torch", "transformers", "peft"] in ran
        assert [c[-1] for c in ran if c[:2] == ["ollama", "run"]] == [text]
        written = (tmp_path / "home" / "Modelfile").read_bytes().decode()
        assert written == render_modelfile(of.bank.index.base_model, columns)
        made = [command for command in ran if command[1] == "generate"]
        assert len(made) == 2
        for command in made:
            given = dict(zip(command[2:14:2], command[3:14:2], strict=True))
            assert given["--dataset"] == request.name
            assert (given["--config"], given["--split"]) == (text, chosen["split"])
            assert from_option(given["--instruction"]) == text
            assert from_option(given["--template"]) == template
            assert given["--columns"] == str(columns)
