"""An adapter is checked automatically where packages and base model are at hand."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Shell
from tests.training import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import Bank, Plan, Recipe, generate, open_dataset, plan  # noqa: E402 - torch
from hf_lorameta.demo import TRAIN_FILE  # noqa: E402
from hf_lorameta.errors import AuthError, MissingExtraError  # noqa: E402
from hf_lorameta.pipeline.automatic import NO_BASE, Automatic, possible  # noqa: E402
from hf_lorameta.pipeline.budget import rows_to_fit, training_seconds  # noqa: E402
from hf_lorameta.pipeline.generate import plan_with_rows  # noqa: E402
from hf_lorameta.pipeline.make import make_adapter  # noqa: E402
from hf_lorameta.pipeline.rows import Rows  # noqa: E402
from hf_lorameta.pipeline.session import Session  # noqa: E402
from hf_lorameta.training.further.settings import STAGES  # noqa: E402


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return tiny.write_task(tmp_path, "topic0", tiny.rows(0))


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NO_BASE)


BOTH, NOTHING = Automatic(), Automatic(fit=False, check=False)


def possible_for(rows: Path, session: Session, **settings: Any) -> Automatic:
    return possible(BOTH, Recipe.of(**settings), open_dataset(rows).info, session)


def test_the_base_model_is_used_only_where_it_is_possible_and_useful(
    tiny_bank: Bank, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(tiny_bank)
    assert possible_for(rows, session) == BOTH
    for asked in ({"check": 8}, {"train": 16}, {"fit": 16}, {"emit": "mixture"}):
        assert possible_for(rows, session, **asked) == NOTHING
    assert possible_for(rows, session, top_k=2) == Automatic(fit=False, check=True)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "say one two"}) + "\n")
    assert possible_for(prompts, session) == NOTHING
    monkeypatch.setattr("hf_lorameta.pipeline.automatic._LARGEST", 1)
    assert possible_for(rows, session) == NOTHING
    monkeypatch.undo()
    monkeypatch.delenv(NO_BASE)
    monkeypatch.setattr("hf_lorameta.pipeline.automatic.find_at_hand", lambda name, revision: None)
    assert possible_for(rows, session) == NOTHING
    monkeypatch.undo()
    assert possible_for(rows, session) == NOTHING  # the switch is set again

    def missing() -> None:
        raise MissingExtraError("torch is not installed", hint="")

    monkeypatch.delenv(NO_BASE)
    monkeypatch.setattr("hf_lorameta.pipeline.automatic.require_eval", missing)
    assert possible_for(rows, session) == NOTHING


def test_labels_are_fitted_on_as_many_rows_as_a_minute_or_two_allow(tmp_path: Path) -> None:
    def of_rows(count: int, words: int, labels: int = 2) -> Plan:
        path, more = tmp_path / "labels.jsonl", "so " * words
        texts = ((f"{more}{i}?", "abcdefgh"[i % labels] * (i % labels + 1)) for i in range(count))
        rows = (json.dumps({"input": text, "output": answer}) for text, answer in texts)
        path.write_text("\n".join(rows))
        return plan(path, Bank.embedded())

    assert rows_to_fit(of_rows(400, 10), 400) == 300
    assert rows_to_fit(of_rows(180, 10), 180) == 164
    assert rows_to_fit(of_rows(60, 10), 60) == 0
    assert 48 <= rows_to_fit(long := of_rows(200, 200), 1000) < 200
    assert training_seconds(long, rows_to_fit(long, 1000), 3e13, STAGES[:1]) <= 1
    assert rows_to_fit(of_rows(180, 10).with_recipe(Recipe()), 40) == 0
    of_texts = plan([{"input": f"Q {i}?", "output": f"It was {i**3} or so."} for i in range(99)])
    assert rows_to_fit(of_texts, 99) == 0


@pytest.mark.parametrize(("labels", "fitted"), [(("yes", "no"), 64), (("yes",), None)])
def test_one_label_is_not_fitted_unasked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    labels: tuple[str, ...],
    fitted: int | None,
) -> None:
    caplog.set_level(logging.INFO, "hf_lorameta")
    find = "hf_lorameta.pipeline.automatic.find_at_hand"
    monkeypatch.setattr(find, lambda name, revision: tmp_path)
    monkeypatch.delenv(NO_BASE, raising=False)
    lines = [{"input": f"Question {i}?", "output": labels[i % len(labels)]} for i in range(80)]
    with Session() as session:
        plan, _ = plan_with_rows(open_dataset(lines), session, Recipe(), wanted=BOTH)
    assert plan.recipe.fit == fitted
    assert ("--no-fit, in Python fit=False, skips it" in caplog.text) == bool(fitted)


def test_it_is_said_why_labels_are_not_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [{"input": f"Question {i}?", "output": ("yes", "no")[i % 2]} for i in range(80)]
    texts = [{"input": f"Q {i}?", "output": f"It was {i**3} or so."} for i in range(80)]
    monkeypatch.setattr("hf_lorameta.pipeline.automatic.find_at_hand", lambda name, revision: None)

    def said(rows: Any, wanted: Automatic = BOTH, base: str | None = None, **settings: Any) -> str:
        caplog.clear()
        with Session(base=base) as session:
            plan_with_rows(open_dataset(rows), session, Recipe.of(**settings), wanted=wanted)
        return " ".join(r.getMessage() for r in caplog.records if "itted" in r.getMessage())

    assert "rarely gives the right label: the base model is not on this machine" in said(lines)
    assert "Next: hf download HuggingFaceTB/SmolLM2-135M-Instruct" in said(lines)
    assert "the same for every dataset" in said(texts, base="Qwen/Qwen2.5-Coder-0.5B-Instruct")
    assert said(texts) == said(lines, NOTHING) == said(lines, top_k=2) == ""


def test_python_checks_as_the_command_line_does(
    tiny_bank: Bank, rows: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "hf_lorameta")
    checked = generate(rows, tiny_bank, Recipe(rank=4))
    assert checked.plan.check
    assert checked.plan.check.rows == 16
    assert checked.plan.recipe == Recipe(rank=4)
    assert "Checked on 16 other rows" in caplog.text
    assert generate(rows, tiny_bank, Recipe(rank=4), check=False).plan.check is None
    monkeypatch.setenv(NO_BASE, "1")
    assert generate(rows, tiny_bank, Recipe(rank=4)).plan.check is None


@pytest.mark.usefixtures("model_commands")
def test_generate_checks_unless_told_not_to(
    cli: Shell, tiny_bank: Bank, rows: Path, tmp_path: Path
) -> None:
    command = ("generate", "-d", rows, "--bank", tiny_bank.folder, "--rank", 4)
    checked = cli(*command, "-o", tmp_path / "a", HF_LORAMETA_NO_BASE="")
    [announced] = [line for line in checked.err.splitlines() if "--no-check" in line]
    assert "compared with the base model" in announced
    assert "most of the time" in announced
    assert len(re.findall(r"Checked on 16 other rows: loss of the", checked.err)) == 1
    assert "with a 3-shot prompt" in checked.err
    assert checked.err.count("Right answers on 16 rows: the adapter ") == 1
    card = (tmp_path / "a" / "README.md").read_text()
    assert "## Checked on 16 rows" in card
    assert "base model with a prompt of 3 examples" in card
    assert "--no-check" in card.split("How to reproduce it")[1]
    plain = cli(*command, "-o", tmp_path / "b", "--no-check", HF_LORAMETA_NO_BASE="")
    assert "Checked" not in plain.err
    assert "compared with the base model" not in plain.err
    quiet = cli(*command, "-o", tmp_path / "q", "-q", HF_LORAMETA_NO_BASE="").err
    assert "--no-check" not in quiet
    assert "Checked" not in quiet
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]  # the check only reports
    shuffled = [
        row | {"output": other["output"][::-1]}
        for row, other in zip(tiny.rows(0), tiny.rows(1), strict=True)
    ]
    wrong = tiny.write_task(tmp_path, "wrong", shuffled)
    worse = cli(
        *("generate", "-d", wrong, "--bank", tiny_bank.folder, "--rank", 4, "--output-prior", 0),
        *("-o", tmp_path / "d"),
        HF_LORAMETA_NO_BASE="",
    )
    assert (tmp_path / "d" / "adapter_model.safetensors").exists()  # even if it is worse
    losses = re.search(r"base model (\S+), .*of this adapter (\S+)$", worse.err, re.MULTILINE)
    assert losses
    assert ("worse than the base model" in worse.err) == (float(losses[1]) < float(losses[2]))
    few = tiny.write_task(tmp_path, "few", tiny.rows(0, 3))
    done = cli(
        *("generate", "-d", few, "--bank", tiny_bank.folder, "-o", tmp_path / "c"),
        HF_LORAMETA_NO_BASE="",
    )
    assert "Checked" not in done.err


def test_an_adapter_is_made_although_its_automatic_check_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise AuthError("the token is not valid")

    monkeypatch.setattr("hf_lorameta.pipeline.make.check_adapter", fail)
    planned = plan(TRAIN_FILE, recipe=Recipe(top_k=2))
    rows = Rows(check=(("a", "b"),) * 4)
    made = make_adapter(planned, rows)
    assert made.plan.check is None
    assert "The adapter was not checked: the token is not valid" in caplog.text
    with pytest.raises(AuthError):
        make_adapter(replace(planned, recipe=Recipe(top_k=2, check=4)), rows)
