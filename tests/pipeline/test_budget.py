"""The number of rows to train on follows from the time, the dataset and the machine."""

import json
import math
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_lorameta import Recipe, generate, open_dataset, plan
from hf_lorameta.bank.bank import Bank
from hf_lorameta.errors import (
    BudgetError,
    EmptyDatasetError,
    LoraMetaError,
    MissingExtraError,
    UsageError,
)
from hf_lorameta.pipeline import automatic, budget
from hf_lorameta.pipeline.automatic import Automatic
from hf_lorameta.pipeline.budget import (
    budget_seconds,
    forward_passes,
    parse_seconds,
    training_seconds,
)
from hf_lorameta.pipeline.generate import plan_with_rows
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.rows import rows_used
from hf_lorameta.pipeline.session import Session
from hf_lorameta.training.further.settings import STAGES, Stage
from tests.support.plain_bank import plain_bank

pytest.importorskip("torch")
SPEED = 100.0
Choose = Callable[..., tuple[int | None, str]]


@pytest.fixture(scope="module")
def bank() -> Bank:
    return plain_bank()


@pytest.fixture
def session(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session on a machine that passes 100 rows a second and has the base model."""
    monkeypatch.setattr(budget, "_operations_of_a_pass", lambda plan, pool, session: SPEED)
    monkeypatch.setattr(budget, "training_seconds", seconds_at)
    monkeypatch.setattr(automatic, "find_at_hand", lambda name, revision: Path())
    return Session(bank)


def write(folder: Path, number: int, output: bool = True, labels: int | None = None) -> Path:
    path = folder / "rows.jsonl"
    rows = [
        {"input": f"question {i}"}
        | ({"output": f"number {i % (labels or number)}"} if output else {})
        for i in range(number)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def choose(session: Session, caplog: pytest.LogCaptureFixture) -> Choose:
    """Function that returns the rows to train on within a time, and what is said about it."""

    def run(
        path: Path, seconds: float, session: Session = session, **settings: int
    ) -> tuple[int | None, str]:
        caplog.clear()
        with caplog.at_level("INFO", "hf_lorameta.pipeline.budget"):
            opened, recipe = open_dataset(path), Recipe.of(**settings)
            plan, _ = plan_with_rows(opened, session, recipe, budget=seconds)
        messages = [r.getMessage() for r in caplog.records if r.name.endswith("budget")]
        return plan.recipe.train, ". ".join(messages)

    return run


def seconds_for(rows: int) -> float:
    return forward_passes(rows)[0] / SPEED


def seconds_at(plan: Plan, rows: int, speed: float, stages: Sequence[Stage] = STAGES) -> float:
    assert speed == SPEED
    return 10 * rows / speed if len(stages) == 1 else seconds_for(rows)


@pytest.mark.parametrize("rows", [64, 128, 256])
def test_the_most_rows_that_fit_are_trained_on(tmp_path: Path, choose: Choose, rows: int) -> None:
    path = write(tmp_path, 300)
    train, reasons = choose(path, seconds_for(rows) + 0.5)
    assert train is not None
    assert train in budget.ROWS
    assert seconds_for(train) <= seconds_for(rows) + 0.5
    assert train >= rows
    assert reasons.startswith(f"Training on {train} rows: at most about")
    assert "would take at most about" in reasons


@pytest.mark.parametrize(
    ("labels", "seconds", "field", "rows"),
    [
        (2, 20, "fit", 16),
        (2, 300, "fit", 256),
        (2, 600, "train", 128),
        (None, 20, "fit", 16),
        (None, 70, "train", 16),
        (None, 300, "train", 64),
    ],
)
def test_many_labels_are_fitted_rather_than_few_trained_on_and_texts_only_where_no_training_fits(
    tmp_path: Path,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    labels: int | None,
    seconds: float,
    field: str,
    rows: int,
) -> None:
    def estimate(plan: Plan, rows: int, speed: float, stages: Sequence[Stage] = STAGES) -> float:
        return rows * (1 if len(stages) == 1 else 4)

    monkeypatch.setattr(budget, "training_seconds", estimate)
    path = write(tmp_path, 256, labels=labels)
    with Session(Bank.embedded()) as counting:
        dataset, recipe = open_dataset(path), Recipe()
        with caplog.at_level("INFO", "hf_lorameta.pipeline.budget"):
            chosen, _ = plan_with_rows(
                dataset, counting, recipe, budget=seconds, wanted=Automatic()
            )
        if field == "fit" and seconds < 60:
            with pytest.raises(BudgetError):
                plan_with_rows(dataset, counting, recipe, budget=seconds)
        else:
            without, _ = plan_with_rows(dataset, counting, recipe, budget=seconds)
            assert "fit" not in without.recipe.rows_asked
    assert chosen.recipe.rows_asked == {field: rows}
    said = f"{'Fitting' if field == 'fit' else 'Training'} on {rows} rows: at most about"
    assert said in caplog.text


@pytest.mark.parametrize(("rows", "fitted"), [(63, None), (64, 48)])
def test_labels_of_too_few_rows_are_not_fitted_on_which_is_said(
    tmp_path: Path,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rows: int,
    fitted: int | None,
) -> None:
    monkeypatch.delenv(automatic.NO_BASE, raising=False)
    path = write(tmp_path, rows, labels=2)
    with Session(Bank.embedded()) as counting:
        plan, _ = plan_with_rows(open_dataset(path), counting, Recipe(), wanted=Automatic())
    assert plan.recipe.fit == fitted
    assert ("fewer than 64 are only fitted on if asked for" in caplog.text) == (fitted is None)


def test_a_fit_takes_less_time_than_a_training(bank: Bank) -> None:
    of_rows = plan([{"input": "a question of some words", "output": "1"}] * 30, bank)
    fit, training = (training_seconds(of_rows, 300, 1e9, stages) for stages in (STAGES[:1], STAGES))
    assert 0.05 < fit / training < 0.3
    assert training_seconds(of_rows, 300, 2e9, STAGES[:1]) == pytest.approx(fit / 2)


def test_the_time_that_is_proposed_counts_loading_the_model(
    tmp_path: Path, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = write(tmp_path, 16), count(step=50)
    monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(budget, "training_seconds", lambda plan, rows, speed: 20.0)
    with pytest.raises(BudgetError, match="at most about 20 s") as error:
        choose(path, 60.0)
    assert error.value.hint == "add --budget 2m, or leave out --budget"


@pytest.mark.parametrize("seconds", [0.0, -5.0, math.nan, math.inf])
def test_a_budget_is_a_positive_number(seconds: float) -> None:
    with pytest.raises(UsageError, match="a budget of"):
        budget_seconds(seconds, Recipe())


def test_all_rows_are_trained_on_if_there_is_time(tmp_path: Path, choose: Choose) -> None:
    path = write(tmp_path, 100)
    assert choose(path, 3600.0)[0] == 100
    train, reasons = choose(path, 3600.0, check=10)
    assert train == 90
    assert "would take" not in reasons


def test_the_rows_are_those_that_the_chosen_recipe_draws(tmp_path: Path, session: Session) -> None:
    dataset = open_dataset(write(tmp_path, 1500))
    plan, rows = plan_with_rows(dataset, session, Recipe(check=4), budget=seconds_for(16) + 0.5)
    assert plan.recipe.train in budget.ROWS
    provenance = {**plan.provenance(), "recipe": plan.recipe.model_dump()}
    assert len(rows.train) == plan.recipe.train
    used = rows_used(provenance, dataset)
    assert used is not None
    assert set(rows.used) == set(used)


def test_obstacles_are_named(
    tmp_path: Path, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(rows: int, output: bool = True) -> str:
        with pytest.raises(LoraMetaError) as error:
            choose(write(tmp_path, rows, output), 60.0)
        return f"{error.value}: {error.value.hint}"

    assert "7 labeled rows to train on, expected at least 8" in refused(7)
    assert refused(300, output=False) == "the dataset has no outputs: leave out --budget"
    monkeypatch.setattr(automatic, "find_at_hand", lambda name, revision: None)
    assert "not on this machine: hf download HuggingFaceTB" in refused(300)

    def missing() -> None:
        raise MissingExtraError("torch is not installed", hint="pip install torch")

    monkeypatch.setattr(automatic, "require_eval", missing)
    assert refused(300) == "torch is not installed: pip install torch, or leave out --budget"


def test_the_speed_is_that_of_the_faster_of_two_passes_of_some_rows(
    tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, scored = iter((0.0, 5.0, 5.0, 7.0)), list[list[tuple[str, str]]]()
    evaluator = SimpleNamespace(encode=list, row_losses=scored.append)
    session: Any = SimpleNamespace(evaluator=evaluator)
    planned, pool = plan(write(tmp_path, 30), bank), [("a", "b")] * 30
    of_row = sum(budget.forward_operations(planned))
    monkeypatch.setattr(budget, "_TIMED_OPERATIONS", 3.5 * of_row)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert budget._operations_of_a_pass(planned, pool, session) == 3 * of_row / 2.0
    assert scored == [pool[:3], pool[:3]]


def test_a_model_in_memory_need_not_be_on_this_machine(
    tmp_path: Path, session: Session, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "find_at_hand", lambda name, revision: None)
    with Session(session.bank, model=(object(), object())) as with_model:
        assert choose(write(tmp_path, 300), 3600.0, with_model)[0] == 300


@pytest.mark.parametrize("recipe", [Recipe(train=16), Recipe(emit="mixture")])
def test_a_budget_goes_with_a_recipe_that_leaves_the_rows_to_it(recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="a budget"):
        budget_seconds(60.0, recipe)


def test_no_adapter_is_made_if_a_budget_can_train_nothing(bank: Bank) -> None:
    rows = [{"input": f"question {i}", "output": f"{i}"} for i in range(3)]
    with pytest.raises(EmptyDatasetError, match="3 labeled rows to train on, expected at least 8"):
        generate(rows, bank, budget="1m", progress=lambda *step: None)


@pytest.mark.parametrize("text", ["", "0s", "soon", "5x", "-3s", "1e3"])
def test_other_texts_than_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_seconds(text)
    with pytest.raises(UsageError, match="is not a time"):
        generate([{"input": "a", "output": "b"}], plain_bank(), budget=text)
