"""What is done for a dataset is decided once: by default, as asked, or refused with all reasons."""

import json
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hf_lorameta import Bank, generate, open_dataset
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.errors import (
    LoraMetaError,
    MissingExtraError,
    UnlabeledDatasetError,
    UsageError,
)
from hf_lorameta.pipeline import resolve
from hf_lorameta.pipeline.budget import DEFAULT_BUDGET, budget_seconds
from hf_lorameta.pipeline.check import Check
from hf_lorameta.pipeline.request import Request
from hf_lorameta.pipeline.resolve import NO_BASE, Resolved
from hf_lorameta.pipeline.rows import MOST_ROWS, RowsAsked, rows_for
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.stages import Stage
from hf_lorameta.pipeline.train import Train
from tests.conftest import Shell
from tests.support.codes import raises_code
from tests.support.fast_training import FAST, fast_training
from tests.support.plain_bank import plain_bank
from tests.training import tiny

Resolve = Callable[..., Resolved]
LABELED = [{"input": f"Question {i}?", "output": ("yes", "no")[i % 2]} for i in range(80)]
PROMPTS = [{"prompt": f"Say {i}."} for i in range(40)]


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the extra ``eval`` and a small base model."""
    monkeypatch.delenv(NO_BASE)
    monkeypatch.setattr(resolve, "require_eval", lambda: None)
    monkeypatch.setattr(resolve, "at_hand_or_downloaded", lambda *_: tmp_path)


def decided(rows: Any = LABELED, bank: Bank | None = None, **settings: Any) -> Resolved:
    session = Session(plain_bank() if bank is None else bank)
    dataset: Dataset = open_dataset(rows)
    return resolve.resolve(dataset, session, Request(**settings))


ALONE = embedded_bank("Qwen/Qwen2.5-Coder-0.5B-Instruct")


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize(
    ("settings", "seconds", "stages"),
    [
        ({}, DEFAULT_BUDGET, {Train: False, Check: False}),
        ({"check": False}, DEFAULT_BUDGET, {Train: False}),
        ({"check": 8}, DEFAULT_BUDGET, {Train: False, Check: True}),
        ({"budget": 0.0}, 0, {}),
        ({"budget": 0.0, "check": 8}, 0, {Check: True}),
        ({"budget": 30.0}, 30, {Train: True, Check: False}),
        ({"budget": 30.0, "top_k": 2}, 30, {Train: True, Check: False}),
        ({"top_k": 2}, DEFAULT_BUDGET, {Train: False, Check: False}),
        ({"train": 16}, 0, {Train: True, Check: False}),
        ({"train": 16, "check": False}, 0, {Train: True}),
        ({"train": 16, "check": 8}, 0, {Train: True, Check: True}),
        ({"bank": ALONE}, DEFAULT_BUDGET, {Train: False, Check: False}),
        ({"rows": PROMPTS}, 0, {}),
    ],
)
def test_the_base_model_is_run_by_default_where_that_helps(
    settings: dict[str, Any], seconds: float, stages: dict[type[Stage[Any]], bool]
) -> None:
    """Stages are required, or an error in them costs no adapter."""
    found = decided(**settings)
    assert found.seconds == seconds
    assert [(type(s), s.required) for s in found.stages] == [*stages.items()]
    assert found.trains_on_all == (Train in stages and "train" not in settings)


def missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise MissingExtraError("torch is not installed", hint="pip install torch")

    monkeypatch.setattr(resolve, "require_eval", fail)


OBSTACLES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "torch is not installed": missing_extra,
    "not on this machine": lambda patch: patch.setattr(
        resolve, "at_hand_or_downloaded", lambda *_: None
    ),
    "more than half of the free memory": lambda patch: patch.setattr(
        resolve, "available_memory", lambda: -1
    ),
}


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize(("free", "runs"), [(5.0, True), (4.6, False)])
def test_by_default_a_base_model_takes_half_of_the_free_memory_whatever_its_files_have(
    free: float, runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are stored in 32 bits and run in 16."""
    values = np.zeros((100, 100), np.float32)
    save_file({"weights": values}, tmp_path / "model.safetensors")
    save_file({"weights": values}, tmp_path / "consolidated.safetensors")  # is not loaded
    monkeypatch.setattr(resolve, "available_memory", lambda: free * values.size)
    assert bool(decided().stages) == runs


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize("reason", OBSTACLES)
def test_it_is_said_why_the_base_model_is_not_run(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    OBSTACLES[reason](monkeypatch)
    found = decided()
    assert (found.seconds, found.stages) == (0, ())
    assert reason in str(found)
    assert found.obstacle
    assert found.obstacle.hint
    generate(LABELED, plain_bank())
    assert f"Not trained on your rows: {found.obstacle}. Next: " in caplog.text


def test_of_too_few_rows_it_is_not_said_that_they_will_be_trained_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "hf_lorameta")
    generate(LABELED[:3], plain_bank(), budget=60)
    counted = "Not trained, and no right answers are counted: that takes at least 8 labeled rows"
    assert f"{counted}, got 3" in caplog.messages
    generate(LABELED[:3], plain_bank(), budget=60, check=False)
    assert "at least 8 labeled rows" in caplog.text
    assert "train on your rows" not in caplog.text


def test_a_variable_switches_the_default_off_without_a_word(
    at_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NO_BASE, "1")
    assert decided() == Resolved(Request(budget=0.0, check=False), insisted=False)
    assert decided(budget=9.0) == Resolved(Request(budget=9.0))


REFUSED: list[tuple[dict[str, Any], type[LoraMetaError], str]] = [
    ({"budget": 9.0, "train": 16}, UsageError, "leave out --budget, or leave out --train"),
    ({"budget": 9.0, "rows": PROMPTS}, UnlabeledDatasetError, "add --columns"),
    ({"train": 16, "rows": PROMPTS}, UnlabeledDatasetError, "leave out --train, or add --columns"),
]


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize(("settings", "kind", "hint"), REFUSED)
def test_contradictions_are_refused(
    settings: dict[str, Any], kind: type[LoraMetaError], hint: str
) -> None:
    with pytest.raises(kind) as error:
        decided(**settings)
    assert error.value.hint.startswith(hint)


def test_one_error_names_all_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    missing_extra(monkeypatch)
    with raises_code("budget.and-train", match="torch") as error:
        decided(budget=9.0, train=16)
    assert error.value.codes == ("budget.and-train", "extra.missing")
    assert error.value.hint.endswith("--train, or pip install torch")
    with raises_code("recipe.needs-bank", match=r"metric=kl .*; and combine=factors "):
        decided(bank=ALONE, metric="kl", combine="factors", budget=0.0)


def test_all_rows_but_a_quarter_and_few_rows_without_exception_are_trained_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def drawn(number: int, **settings: Any) -> tuple[int, int, int, int]:
        """Return how many rows are trained on, held out, divided and checked on."""
        pool = [(f"{i}?", "ab"[i % 2]) for i in range(number)]
        rows = rows_for(RowsAsked(all_rows=True, **settings), pool)
        if rows.train:  # the recipe that is recorded draws the same ones
            recorded = RowsAsked(len(rows.train), steps=True, **settings)
            assert rows_for(recorded, pool).train == rows.train
        if rows.foldable:
            recorded = RowsAsked(len(rows.foldable), steps=True, **settings)
            again = rows_for(recorded, pool)
            assert (again.train, again.held_out) == (rows.foldable, ())
            assert {*rows.train, *rows.held_out} <= {*rows.foldable}
        assert len({*rows.train, *rows.held_out, *rows.check}) == len(rows.used)
        return len(rows.train), len(rows.held_out), len(rows.foldable), len(rows.check)

    assert drawn(7) == (0, 0, 0, 0)
    assert caplog.messages == [
        "Not trained, and no right answers are counted: that takes at least 8 labeled rows, got 7"
    ]
    assert drawn(8) == (6, 2, 8, 0)
    assert drawn(10, check=4) == (0, 0, 0, 4)
    assert drawn(16) == (12, 4, 16, 0)
    assert drawn(100) == (75, 25, 100, 0)
    assert drawn(101) == (76, 25, 0, 0)
    assert drawn(400) == (352, 48, 0, 0)
    assert drawn(40, check=8) == (32, 0, 0, 8)
    assert drawn(MOST_ROWS + 100) == (MOST_ROWS, 48, 0, 0)


# --- with a model ---------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return tiny.write_task(tmp_path, "topic0", tiny.rows(0))


@pytest.mark.usefixtures("model_commands")
def test_generate_trains_and_counts_unless_told_not_to(
    cli: Shell, tiny_bank: Bank, rows: Path, tmp_path: Path
) -> None:
    with cli.in_one_process():
        generate_in_each_way(cli, tiny_bank, rows, tmp_path)


def generate_in_each_way(cli: Shell, tiny_bank: Bank, rows: Path, tmp_path: Path) -> None:
    command = ("generate", "-d", rows, "--bank", tiny_bank.folder, "--rank", 4)
    run = partial(cli, before=FAST)
    done = run(*command, "--budget", "10m", "-o", tmp_path / "a", HF_LORAMETA_NO_BASE="")
    [announced] = [line for line in done.err.splitlines() if "--no-check" in line]
    assert "train on your rows for up to 10 min" in announced
    assert done.err.count("Right answers on 48 rows") == 1
    recipe = json.loads((tmp_path / "a" / "recipe.json").read_text())
    card = (tmp_path / "a" / "README.md").read_text()
    assert (recipe["check"]["rows"], recipe["recipe"]["train"]) == (48, 48)  # in folds
    [again] = re.findall(r"hf-lorameta generate \\\n(?:    --.* \\\n)*    .*\n", card)
    assert f"--steps {recipe['recipe']['steps']}" in again
    words = again.replace("\\\n", " ").split()[1:]
    words[words.index("my-adapter")] = str(tmp_path / "again")
    values = {"DATASET": str(rows), "BANK": str(tiny_bank.folder)}
    repeated = run(*(values.get(word, word) for word in words), HF_LORAMETA_NO_BASE="")
    assert "count right answers" not in repeated.err  # no row is left to count them on
    weights = [(tmp_path / name / "adapter_model.safetensors") for name in ("a", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    pure = run(*command, "--budget", "0", "-o", tmp_path / "b", HF_LORAMETA_NO_BASE="")
    assert "Right answers" not in pure.err
    asked = run(*command, "--train", 8, "-o", tmp_path / "c", HF_LORAMETA_NO_BASE="")
    assert "on rows that it has not seen. To skip the count alone: --no-check" in asked.err
    assert "To skip this: " not in asked.err
    assert "Right answers on 12 rows" in asked.err
    refusing = ("--check", 4, "--budget", "60s", "-o", tmp_path / "d")
    assert "--no-check" not in run(*command, *refusing, HF_LORAMETA_NO_BASE="").err


def test_a_failed_check_that_nobody_asked_for_does_not_cost_the_adapter(
    tiny_bank: Bank, rows: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LoraMetaError("out of memory")

    monkeypatch.setattr("hf_lorameta.engines.comparing.compare", fail)
    monkeypatch.delenv(NO_BASE)
    fast_training(monkeypatch.setattr)
    caplog.set_level(logging.INFO, "hf_lorameta")
    assert generate(rows, tiny_bank, top_k=2).outcome.check is None
    assert "out of memory" in caplog.text
    with pytest.raises(LoraMetaError, match="out of memory"):
        generate(rows, tiny_bank, top_k=2, train=8, steps=1, check=8)


@pytest.mark.unit
@pytest.mark.parametrize(
    "budget", ["soon", "-3", "nan", float("nan"), float("inf"), -1.0, "3 days", "٣s"]
)
def test_a_budget_is_a_time(budget: Any) -> None:
    with raises_code("budget.not-a-time") as error:
        generate(TRAIN_FILE, budget=budget)
    assert error.value.hint == "add --budget 2m"


@pytest.mark.unit
def test_a_budget_is_a_week_at_most() -> None:
    assert budget_seconds("168h") == 7 * 24 * 3600
    for budget in ("169h", "1" + 20 * "0" + "h", 1e9, "9" * 400):
        with raises_code("budget.too-long") as error:
            budget_seconds(budget)
        assert error.value.hint == "lower --budget"
