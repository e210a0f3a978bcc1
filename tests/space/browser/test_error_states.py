"""No error of the page, wherever it comes from, has words that only a programmer understands."""

import re
from pathlib import Path

import pytest

from tests.conftest import Account, Shell
from tests.space.datasets import TRAIN, lines
from tests.space.forbidden_words import forbidden_words
from tests.support.fault_hub import Fault
from tests.support.running_space import Visitor, missing

if why := missing("gradio", "playwright", browser=True):
    pytest.skip(why, allow_module_level=True)

from playwright.sync_api import TimeoutError

ODD = lines([{"left": f"a {i}", "right": f"b {i}"} for i in range(12)])
FILES = {
    "broken.parquet": (b"PAR1 no", "Check the file"),
    "broken.jsonl": (b'{"input": "q", "output": "a"}\n{"input": \n', "line 2 is not"),
    "number.json": (b"5", "line 1 is a number, expected an object"),
    "nothing.csv": (b"", "has no rows"),
    "heads.csv": (b"input,output\n", "heads.csv has no rows"),
    "blank.jsonl": (lines([{"input": "q", "output": ""}] * 12), "has an output"),
    "notes.exe": (b"MZ", "is not one of"),
}


def expect(visitor: Visitor, place: str, message: str) -> None:
    """Wait for an error with this message, and look at all visible words."""
    alerts = visitor.page.locator(f"{place} [role=alert]")
    try:
        alerts.filter(has_text=message).first.wait_for()
    except TimeoutError:
        raise AssertionError(f"no {message!r} in {alerts.all_text_contents()}") from None
    assert forbidden_words(visitor.visible_text()) == []


def test_files_that_cannot_be_read_or_uploaded(visitor: Visitor, tmp_path: Path) -> None:
    for name, (content, message) in FILES.items():
        path = tmp_path / name
        path.write_bytes(content)
        visitor.page.locator("#lm-file").set_input_files(path)
        expect(visitor, "#lm-status", message)
        assert str(tmp_path) not in visitor.visible_text()
    uploads = sum("upload" in url for url in visitor.requests)
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(100_000_001)
    visitor.page.locator("#lm-file").set_input_files(path)
    visitor.page.get_by_text("large.jsonl is larger than 100 MB.").wait_for()
    assert sum("upload" in url for url in visitor.requests) == uploads
    why = "The files of other visitors leave no room. Try again in a few minutes."
    page, path = visitor.page, tmp_path / "rows.jsonl"
    path.write_bytes(TRAIN)
    page.route(re.compile("/upload"), lambda route: route.fulfill(status=429, json={"detail": why}))
    page.locator("#lm-file").set_input_files(path)
    page.get_by_text(f"rows.jsonl could not be uploaded. {why}").wait_for()
    page.wait_for_timeout(500)
    assert page.get_by_text("429").count() == 0, "Gradio shows no message of its own"
    visitor.errors.clear()  # the browser logs the status


def test_datasets_that_cannot_be_read(visitor: Visitor, cli: Shell, user: Account) -> None:
    secret = user.dataset("secret", {"train.jsonl": TRAIN}, private=True)
    gated = user.dataset("gated", {"train.jsonl": TRAIN}, gated=True)
    script = user.dataset("script", {"script.py": b"import os"})
    empty = user.dataset("empty", {"README.md": b"# Nothing"})
    away = user.dataset("away", {"train.jsonl": TRAIN})
    cli.hub.add_fault(Fault("status", path=away, status=503, retry_after=600))
    found = {
        " ": "No dataset was named",
        secret: "was not found",
        gated: "gated",
        script: "script",
        empty: "has no data files",
        away: "The Hub did not respond",
    }
    for name, message in found.items():
        visitor.enter_dataset(name)
        expect(visitor, "#lm-status", message)
        visitor.wait_for_end()
        visitor.page.locator("#lm-announcer:empty").wait_for(state="attached")
    cli.hub.clear_faults()


def test_roles_and_prompts_that_cannot_be_used(visitor: Visitor, user: Account) -> None:
    page = visitor.page
    visitor.enter_dataset(user.dataset("odd", {"train.jsonl": ODD}))
    page.get_by_text("Is this right?").wait_for()
    page.get_by_label("Role of left").select_option("input")
    page.get_by_label("Role of left").select_option("ignore")
    page.get_by_label("Role of right").select_option("ignore")
    expect(visitor, "#lm-status", "Choose below which column")
    page.get_by_label("Role of left").select_option("messages")
    page.get_by_label("Role of right").select_option("input")
    expect(visitor, "#lm-status", "expected input and output, one of them, or messages")
    page.get_by_label("Role of left").select_option("input")
    page.get_by_label("Role of right").select_option("output")
    page.locator("[data-link*='output%3Dright']").wait_for(state="attached")
    visitor.open_section("Prompt")
    page.get_by_label("Instruction, the same").fill("Answer.")
    page.get_by_label("Form, if not").fill("Say it.")
    page.get_by_role("button", name="Use this prompt").click()
    expect(visitor, "#lm-prompt-error", "has no {input}")
    page.get_by_label("Form, if not").fill("{instruction}\n\n{input}")
    page.get_by_label("Instruction, the same").fill("7 " * 960)
    page.get_by_role("button", name="Use this prompt").click()
    expect(visitor, "#lm-prompt-error", "The instruction has 1,919 tokens, expected at most 1,024")
    page.get_by_label("Instruction, the same").fill("Answer.")
    page.get_by_role("button", name="Use this prompt").click()
    link = "instruction=Answer.&template=%7Binstruction%7D%0A%0A%7Binput%7D"
    page.locator(f"[data-link$='{link}']").wait_for(state="attached")
    page.locator("#lm-prompt-error [role=alert]").wait_for(state="detached")
