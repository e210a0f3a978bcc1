"""Instruction and template: how rows are read with them, where they are recorded, when warned."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta import generate
from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.data.instruction_and_cue import (
    propose_instruction,
    states_task,
    with_instruction_and_cue,
)
from hf_lorameta.data.prompt import as_option, from_option
from tests.conftest import Account, Built, Shell
from tests.data.shapes import text
from tests.support.codes import raises_code

CLASSES = ("dour", "jolly", "wry")
SAID = "Classify the text as one of: dour, jolly, wry."


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    """Texts with one of three labels, and no instruction."""
    path = tmp_path / "labeled.jsonl"
    rows = [{"text": text(i, 12), "label": CLASSES[i % 3]} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_instruction_and_template_are_put_around_every_input(labeled: Path) -> None:
    given = open_dataset(labeled, instruction=SAID)
    assert given.head(1) == [(f"{SAID}\n\nInput: {text(0, 12)}\nOutput:", "dour")]
    template = "{instruction}\n\n{input}\nClass:"
    shaped = open_dataset(labeled, instruction=SAID, template=template)
    assert shaped.head(1) == [(f"{SAID}\n\n{text(0, 12)}\nClass:", "dour")]
    assert open_dataset(labeled, template="Text: {input}").head(1)[0][0] == f"Text: {text(0, 12)}"
    again = open_dataset(labeled, columns=shaped.columns)  # as evaluate does
    assert again.head(3) == shaped.head(3)


@given(st.text(st.sampled_from("\\nt\n\ta")) | st.text())
def test_texts_in_the_form_of_an_option_round_trip(text: str) -> None:
    option = as_option(text)
    assert from_option(option) == text
    assert not {"\n", "\t"} & set(option)


def test_a_backslash_before_another_letter_is_itself() -> None:
    assert from_option(r"C:\data\\text \\nu\n") == "C:\\data\\text \\nu\n"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"template": "{instruction}"}, "template.invalid"),
        ({"template": "{instruction} {input}"}, "template.invalid"),
        ({"template": "{input}", "instruction": "Do it."}, "template.invalid"),
    ],
)
def test_templates_that_do_not_fit_are_refused(
    labeled: Path, options: dict[str, Any], code: str
) -> None:
    with raises_code(code):
        open_dataset(labeled, **options)


def test_rows_with_an_instruction_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": "Say.", "input": text(i) if i else "", "output": "b"} for i in (0, 1)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with raises_code("usage.invalid"):
        open_dataset(path, instruction="Do it.")
    shaped = open_dataset(path, template="{instruction}\n\n{input}")
    assert [prompt for prompt, _ in shaped.rows()] == ["Say.", f"Say.\n\n{text(1)}"]


# --- instruction and cue --------------------------------------------------------------------------


def formed(rows: list[dict[str, str]], **dataset: Any) -> str:
    """Return the first prompt in the form that is chosen."""
    opened = replace(open_dataset(rows), private=False, id="user/ds", **dataset)
    return with_instruction_and_cue(opened).head(1)[0][0]


def as_rows(**columns: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [{name: make(i) for name, make in columns.items()} for i in range(40)]


def label(i: int) -> str:
    return CLASSES[i % 3]


def shaped(shape: str) -> list[dict[str, str]]:
    """Return prompts in a shape, with labels."""
    return as_rows(input=lambda i: shape.format(text(i)), output=label)


TURNS: Any = [{"messages": [{"role": "user", "content": text(0)},
                            {"role": "assistant", "content": "a"}]}]  # fmt: skip
FIRST = text(0)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # inputs alone get an instruction and a cue
        (as_rows(text=text, label=label), f"{SAID}\n\nInput: {FIRST}\nOutput:"),
        # prompts that share an instruction get a cue; the third is too short for an instruction
        (shaped("Is this a true story? {}"), f"Question: Is this a true story? {FIRST}\nAnswer:"),
        (shaped("{} What do they feel?"), f"Question: {FIRST} What do they feel?\nAnswer:"),
        (shaped("{}\nSay it."), f"{SAID}\n\nInput: {FIRST}\nSay it.\nOutput:"),
        # prompts with a cue stay as they are
        (shaped("Q: {}\nA:"), f"Q: {FIRST}\nA:"),
        (shaped("{} =>"), f"{FIRST} =>"),
        (shaped("### Input:\n{}\n\n### Response:\n"), f"### Input:\n{FIRST}\n\n### Response:\n"),
        # questions, and texts without a task, get a cue
        (as_rows(question=text, answer=lambda i: text(i, 5)), f"Question: {FIRST}\nAnswer:"),
        (as_rows(text=text, response=lambda i: text(i + 50)), f"Input: {FIRST}\nOutput:"),
        # several inputs are labeled already, and code goes on where the prompt ends
        (as_rows(question=text, context=lambda i: text(i + 1), answer=lambda i: text(i, 5)),
         f"Context: {text(1)}\nQuestion: {FIRST}\nAnswer:"),
        (as_rows(prompt=lambda i: f"def f{i}(x):\n", canonical_solution=lambda i: f"  return {i}"),
         "def f0(x):\n"),
        # several labels, and tags
        (as_rows(text=text, labels=lambda i: ["wry, dour", "wry"][i % 2]),
         f"Name all that apply to the text: dour, wry.\n\nInput: {FIRST}\nOutput:"),
        (as_rows(text=text, labels=lambda i: [[], ["dour"], ["wry", "dour"]][i % 3]),
         f"Name all that apply to the text, or none: dour, wry.\n\nInput: {FIRST}\nOutput:"),
        (as_rows(tokens=lambda i: text(i).split(), tags=lambda i: ["O"] * 8 + ["B"]),
         f"Tag each word of the text as one of: B, O.\n\nInput: {FIRST}\nOutput:"),
        # rows with an instruction or turns, or without inputs, stay as they are
        (as_rows(instruction=text, input=lambda i: text(i + 1), output=label),
         f"{FIRST}\n\nInput: {text(1)}\nOutput:"),
        (TURNS, FIRST),
        ([{"text": FIRST}], ""),
    ],
)  # fmt: skip
def test_prompts_get_the_instruction_and_the_cue_that_they_lack(
    rows: list[dict[str, str]], expected: str
) -> None:
    assert formed(rows) == expected


def test_a_form_that_was_given_stays(labeled: Path) -> None:
    for opened in (
        open_dataset(labeled, instruction="Sort."),
        open_dataset(labeled, template="{prompt}"),
    ):
        assert with_instruction_and_cue(opened) is opened


def test_the_instruction_names_the_classes_and_is_stored_with_the_adapter(
    cli: Shell, labeled: Path, tmp_path: Path
) -> None:
    done = cli("generate", "-d", labeled, "-o", "a")
    assert SAID in done.err
    for file in ("README.md", "recipe.json"):
        assert SAID in (tmp_path / "a" / file).read_text()
    done = cli("plan", "-d", labeled, "--instruction", SAID)
    assert "instruction" not in done.err


def test_a_public_repo_holds_no_instruction_made_from_private_data(
    cli: Shell, user: Account, labeled: Path
) -> None:
    push = ("push", "-d", labeled, "--repo-id", f"{user.name}/labels", "--public")
    refused = cli(*push, token=user.token, code=2).err
    assert "instruction" in refused
    assert "--instruction 'Classify the text.'" in refused
    assert not any(name in refused.rpartition("error")[2] for name in CLASSES)
    assert cli.hub.repo(f"{user.name}/labels") is None
    generation = generate(labeled)
    assert generation.private
    with raises_code("repo.instruction-reveals-dataset"):
        generation.push_to_hub(f"{user.name}/labels", private=False, token=user.token)
    cli("generate", "-d", labeled, "-o", "a")
    cli("merge", "a:1", "-o", "merged")
    cli("merge", "merged:1", "-o", "again")
    for folder in ("a", "merged", "again"):
        finished = ("push", "--from", folder, *push[3:])
        assert "instruction" in cli(*finished, token=user.token, code=2).err
    assert cli.hub.repo(f"{user.name}/labels") is None
    cli(*push, "--instruction", "Classify the text.", token=user.token)
    card = cli.hub.read(f"{user.name}/labels", "README.md").decode()
    assert "Classify the text." in card
    assert not any(name in card for name in CLASSES)


def test_an_instruction_made_from_gated_data_makes_the_repo_private(
    cli: Shell, user: Account, labeled: Path
) -> None:
    gated = user.dataset("asked", {"train.jsonl": labeled.read_bytes()}, gated=True)
    cli("push", "-d", gated, "--repo-id", f"{user.name}/asked", token=user.token)
    assert SAID in cli.hub.read(f"{user.name}/asked", "README.md").decode()
    repo = cli.hub.repo(f"{user.name}/asked")
    assert repo is not None
    assert repo.private


@pytest.mark.parametrize("raw", [("--instruction", ""), ("--template", "{prompt}")])
def test_prompts_can_stay_as_they_are_and_are_made_so_again(
    cli: Shell, labeled: Path, tmp_path: Path, raw: tuple[str, str]
) -> None:
    cli("generate", "-d", labeled, *raw, "-o", "a")
    card = (tmp_path / "a" / "README.md").read_text()
    command = shlex.split(card.partition("hf-lorameta generate ")[2].partition("```")[0])
    assert command[command.index("--template") + 1] == "{prompt}"
    stored = json.loads((tmp_path / "a" / "recipe.json").read_bytes())["dataset"]["columns"]
    assert stored == {"input": "text", "output": "label", "template": "{prompt}"}


def test_a_bank_without_instructions_leaves_prompts_as_they_are(
    cli: Shell, bank: Built, labeled: Path
) -> None:
    done = cli("plan", "-d", labeled, "--bank", bank.folder)
    assert "instruction" not in done.err
    assert "cue" not in done.err


# --- what is recorded -----------------------------------------------------------------------------


def test_recipe_card_and_reproduction_hold_instruction_and_template(
    cli: Shell, bank: Built, labeled: Path, tmp_path: Path
) -> None:
    template = r"{instruction}\n\n{input}\nClass:"
    options = ("--instruction", SAID, "--template", template)
    cli("generate", "-d", labeled, "--bank", bank.folder, *options, "-o", "adapter")
    stored = json.loads((tmp_path / "adapter" / "recipe.json").read_bytes())["dataset"]["columns"]
    assert stored["instruction_text"] == SAID
    assert stored["template"] == "{instruction}\n\n{input}\nClass:"
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert f"| Instruction | {SAID} |" in card
    command = shlex.split(card.partition("hf-lorameta generate ")[2].partition("```")[0])
    assert [command[command.index(option) + 1] for option in options[::2]] == [SAID, template]


def test_manifest_entries_have_instructions(
    cli: Shell, user: Account, tmp_path: Path, labeled: Path
) -> None:
    entry = user.entry("plain") | {
        "dataset": user.dataset("labeled", {"train.jsonl": labeled.read_bytes()}),
        "instruction": SAID,
    }
    cli("bank", "build", user.manifest(tmp_path / "m.yaml", [entry]), "-o", "built")
    (stored,) = json.loads((tmp_path / "built" / "bank.json").read_bytes())["entries"]
    assert stored["columns"]["instruction_text"] == SAID


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"article": "a", "highlights": "b"}, None, "Summarize the text."),
        ({"source": "a", "target": "b"}, None, None),
        (
            {"sentence1": "a", "sentence2": "b", "label": "x"},
            None,
            "Classify the texts as one of: x, y.",
        ),
        (
            {"data": {"text": "a", "label": "x"}},
            "input=data.text,output=data.label",
            "Classify the text as one of: x, y.",
        ),
        (
            {"translation": {"en": "a", "fr": "b"}},
            "input=translation.en,output=translation.fr",
            "Translate from en to fr.",
        ),
        ({"row": {"doc": "a"}, "sql": "b"}, "input=row.doc,output=sql", None),
    ],
)
def test_proposed_instructions_go_with_the_columns(
    row: dict[str, Any], columns: str | None, expected: str | None
) -> None:
    def filled(cell: Any, i: int, length: int = 9) -> Any:
        if isinstance(cell, dict):
            return {name: filled(value, i, 9 + len(name)) for name, value in cell.items()}
        return ("x", "y")[i % 2] if cell == "x" else text(i, length)

    dataset = open_dataset([filled(row, i) for i in range(20)], columns=columns)
    assert not states_task(dataset)
    assert propose_instruction(dataset) == expected


def test_fields_with_the_name_of_a_question_state_the_task() -> None:
    rows = [{"row": {"question": text(0), "answer": "b"}}]
    assert states_task(open_dataset(rows, columns="input=row.question,output=row.answer"))


@pytest.mark.parametrize(
    ("column", "count", "rows", "expected"),
    [
        ("intent", 77, 400, "Name the intent of the text, one of 77."),
        ("category", 11, 16, "Name the category of the text."),
        ("label", 11, 16, "Name the class of the text."),
        ("answer", 11, 16, None),
    ],
)
def test_labels_that_do_not_fit_into_a_list_are_counted(
    column: str, count: int, rows: int, expected: str | None
) -> None:
    labeled = [{"text": text(i), column: f"kind {chr(97 + i % count)}"} for i in range(rows)]
    assert propose_instruction(open_dataset(labeled)) == expected
