"""Trying, training and saving in a Space with a tiny base model."""

import csv
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta import predict
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.engines.scoring import Report, Sample
from hf_lorameta.pipeline.answering import Prediction
from hf_lorameta.types import no_progress
from tests.conftest import Shell, Web
from tests.space.datasets import LABELED, lines
from tests.space.forbidden_words import forbidden_words
from tests.support.running_space import Visitor, missing
from tests.support.tiny_bank import tiny_bank

if why := missing("gradio", "playwright", "torch", "transformers", "peft", browser=True):
    pytest.skip(why, allow_module_level=True)

from playwright.sync_api import expect


@pytest.fixture
def visitor(tiny_space: Web, chromium: Any, context: Any) -> Iterator[Visitor]:
    visitor = Visitor(chromium, tiny_space.space.url, context=context)
    try:
        yield visitor
        assert visitor.errors == []
        text = visitor.visible_text().replace(tiny_bank().index.base_model, "")  # a folder here
        assert forbidden_words(text) == []
    finally:
        visitor.close()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # by PEFT
def test_an_adapter_is_trained_and_checked_while_it_is_tried_and_saved(
    visitor: Visitor, tiny_space: Web, holds: tuple[Path, Path], cli: Shell, tmp_path: Path
) -> None:
    owner, page = tiny_space.owner, visitor.page
    repo = owner.dataset("notes", {"train.jsonl": lines(LABELED)})
    hold_loading, hold_training = holds
    verdict, work, saved = (page.locator(f"#lm-{name}") for name in ("verdict", "work", "saved"))
    stop, progress = page.locator("#lm-stop"), work.locator(".lm-progress")
    visitor.sign_in(owner.name, owner.token)
    visitor.plan(repo)
    expect(verdict).to_contain_text("trained on 78 of your rows")
    expect(verdict).to_contain_text("answers 26 others")
    hold_loading.touch()
    visitor.make()
    expect(page.get_by_role("heading", name="First version, not yet trained")).to_be_focused()
    target = page.get_by_label("Name", exact=True).input_value()
    stop.click()  # while the base model is loaded
    progress.wait_for(state="detached")
    hold_loading.unlink()
    hold_training.touch()
    expect(stop).to_be_hidden()
    expect(verdict).to_contain_text("until right answers are counted")
    visitor.save()
    assert "## Checked on" not in cli.hub.read(target, "README.md").decode()

    page.get_by_role("button", name="Train and count right answers").click()
    expect(verdict).to_contain_text("It is being trained, and then checked, on your rows")
    work.locator("[data-progress^='Training on your rows']").wait_for()
    expect(work).to_contain_text("left")
    text = LABELED[0]["input"]
    page.get_by_label("Input", exact=True).fill(text)
    page.get_by_role("button", name="Compare the answers").click()
    expect(page.locator("#lm-answers")).to_contain_text(f"Answers to: {text}")
    hold_training.unlink()
    verdict.get_by_text("Trained on 78 rows").wait_for()
    progress.wait_for(state="detached")
    expect(page.locator("#lm-answers")).to_contain_text(f"Answers to: {text}")
    page.get_by_label("Input", exact=True).fill("typed, not sent")
    page.reload()
    expect(page.locator("#lm-answers")).to_contain_text(f"Answers to: {text}")
    expect(page.get_by_label("Input", exact=True)).to_have_value("typed, not sent")

    expect(saved).to_contain_text("This version is later")
    page.get_by_label("Replace what is there").check()
    visitor.save()
    card = cli.hub.read(target, "README.md").decode()
    assert "Trained on 78 rows" in card
    assert "Right answers on" in card
    page.locator(".lm-all summary").click()
    cells = cells_of(page.locator("details.lm-all"))
    assert len(cells) == 26
    by_peft = right_by_peft(unzipped_download(page, tmp_path / "a"), [row[1:3] for row in cells])
    shown = [row[3][0] == "✓" for row in cells]
    # the page multiplies 8 bits where that is faster, so that answers that are close may differ
    assert sum(ours != peft for ours, peft in zip(shown, by_peft, strict=True)) <= 2
    right = f"{sum(shown)} of {len(cells)} right"
    expect(verdict.locator(".lm-first")).to_contain_text(right)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # by PEFT
def test_lines_and_files_are_answered_as_the_library_answers_them(
    visitor: Visitor, tiny_space: Web, tmp_path: Path
) -> None:
    page, path = visitor.page, tmp_path / "labeled.jsonl"
    path.write_bytes(lines(LABELED))
    visitor.upload(path)
    visitor.make()
    page.locator("#lm-verdict").get_by_text("Trained on 78 rows").wait_for()
    page.locator("#lm-work .lm-progress").wait_for(state="detached")
    adapter = unzipped_download(page, tmp_path / "a")
    inputs = [row["input"] for row in LABELED[:40]]
    expected = predict(adapter, inputs, progress=no_progress)
    visitor.open_section("Answer many rows")
    many, download = page.locator("#lm-many"), page.locator("#lm-many-download")

    page.get_by_role("button", name="Answer these lines").click()
    many.get_by_role("alert").wait_for()  # nothing was typed
    visitor.wait_for_end()
    page.locator("#lm-lines textarea").fill("\n".join(["", *inputs[:3], " "]))
    page.get_by_role("button", name="Answer these lines").click()
    download.get_by_text("Download answers.csv").wait_for()
    visitor.wait_for_end()
    expect(many.locator("tbody tr")).to_have_count(3)
    shown = cells_of(many)
    assert [row[1] for row in shown] == inputs[:3]
    for (_, _, answer, probability), one in zip(shown, expected, strict=False):
        assert agree(answer, probability, one)

    rows = tmp_path / "new.csv"
    with rows.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "input"], *enumerate(inputs)])
    least = sorted(one.probability or 0 for one in expected)[20] - 1e-6
    page.locator("#lm-sure input").fill(f"{least:.4f}")
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Answer the rows of a file").click()
    chosen.value.set_files(rows)
    download.get_by_text("Download new-answers.csv").wait_for()
    visitor.wait_for_end()
    expect(many.locator("tbody tr")).to_have_count(len(inputs))
    with page.expect_download() as started:
        download.click()
    assert started.value.suggested_filename == "new-answers.csv"
    with Path(started.value.path()).open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["id"] for row in written] == [str(number) for number in range(len(inputs))]
    answers = [row["answer"] for row in written]
    assert 15 < sum(map(bool, answers)) < 25
    for row, one in zip(written, expected, strict=True):
        assert bool(row["answer"]) == (float(row["probability"]) >= round(least, 4))
        assert not row["answer"] or agree(row["answer"], row["probability"], one)

    page.reload()
    visitor.open_section("Answer many rows")
    expect(download).to_contain_text("Download new-answers.csv")
    expect(many.locator("tbody tr")).to_have_count(len(inputs))
    assert [row[2] for row in cells_of(many)] == [answer or "(empty)" for answer in answers]


def agree(answer: str, probability: str, one: Prediction) -> bool:
    """Whether answers are the same, or both as likely; products in 8 bits may round otherwise."""
    close = abs(float(probability) - (one.probability or 0)) < 0.1
    return close and (answer == one.answer or (one.probability or 0) < 0.6)


def cells_of(table: Any) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]


def right_by_peft(folder: Path, rows: list[list[str]]) -> list[bool]:
    """Return whether an adapter is right on each row in plain PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tiny_bank().index.base_model
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(plain, folder)
    recipe = json.loads((folder / "recipe.json").read_text())
    columns = Columns.model_validate(recipe["dataset"]["columns"])

    def is_right(text: str, reference: str) -> bool:
        inputs = tokenizer(columns.prompt_of(text), return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
        answer = tokenizer.decode(tokens[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        ended = bool(tokens[-1] == tokenizer.eos_token_id)
        return ended and Report({}).is_right(Sample(text, reference, {"peft": answer}), "peft")

    return [is_right(text, reference) for text, reference in rows]


def unzipped_download(page: Any, folder: Path) -> Path:
    with page.expect_download() as started:
        page.locator("#lm-download").click()
    zipfile.ZipFile(started.value.path()).extractall(folder)
    return folder


def test_answers_to_too_few_rows_are_not_counted(visitor: Visitor, tmp_path: Path) -> None:
    page, path = visitor.page, tmp_path / "few.jsonl"
    path.write_bytes(lines(LABELED[:3]))
    visitor.upload(path)
    visitor.make()
    expect(page.locator("#lm-verdict")).to_contain_text("until right answers are counted")
    expect(page.locator("#lm-cancel")).to_be_hidden()
