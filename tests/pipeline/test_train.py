"""An adapter that is trained further on rows of its dataset, from the recipe to the card."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.fast_training import fast_training
from tests.training import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import Bank, Recipe, generate, open_dataset  # noqa: E402 - they import torch
from hf_lorameta.cards.results import check_of  # noqa: E402
from hf_lorameta.deadline import Deadline  # noqa: E402
from hf_lorameta.engines.scoring import compare  # noqa: E402
from hf_lorameta.engines.transformers.forward import RowLosses  # noqa: E402
from hf_lorameta.errors import AdapterError, EmptyDatasetError, UsageError  # noqa: E402
from hf_lorameta.pipeline import train  # noqa: E402
from hf_lorameta.pipeline.generate import plan_with_rows  # noqa: E402
from hf_lorameta.pipeline.make import make_adapter  # noqa: E402
from hf_lorameta.pipeline.resolve import Resolved  # noqa: E402
from hf_lorameta.pipeline.rows import draw_rows, require_rows  # noqa: E402
from hf_lorameta.pipeline.session import Session  # noqa: E402
from hf_lorameta.pipeline.train import improve  # noqa: E402
from hf_lorameta.training import device  # noqa: E402
from hf_lorameta.training.further import train_rows  # noqa: E402
from tests.training.tiny import loss, make  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def suited_to_the_tiny_base(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_training(monkeypatch.setattr)


@pytest.fixture(scope="module", params=["with a prior", "without"])
def bank(
    request: pytest.FixtureRequest, tiny_bank: Bank, tmp_path_factory: pytest.TempPathFactory
) -> Bank:
    if request.param == "without":
        return tiny_bank
    general: dict[str, Any] = {"general_steps": 8, "general_rows": 4, "forms": True}
    return tiny.write_bank(tmp_path_factory.mktemp, **general)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_training_lowers_the_loss_and_the_card_says_so(
    bank: Bank, new: Path, tmp_path: Path
) -> None:
    generated, trained = make(bank, new), make(bank, new, train=16, check=8)
    training = trained.outcome.training
    assert training is not None
    assert (training.rows, training.held_out) == (12, 4)
    assert training.steps > 0
    assert training.end > training.start
    assert {module.name.rpartition(".")[2] for module in trained.layout} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert trained.outcome.check is not None
    generated.save_pretrained(tmp_path / "generated")
    trained.save_pretrained(tmp_path / "trained")
    pool = [(row["input"], row["output"]) for row in tiny.rows(3)]
    drawn = draw_rows(trained.plan.recipe, pool)
    used = drawn.train
    others = [row for row in pool if row not in used]
    assert loss(bank, others, tmp_path / "trained") < loss(bank, others, tmp_path / "generated")
    assert trained.outcome.check.end == pytest.approx(
        loss(bank, list(drawn.check), tmp_path / "trained"), abs=0.02
    )
    card = (tmp_path / "trained" / "README.md").read_text()
    assert "**Trained on 12 rows of the dataset**" in card
    assert "No training took place" not in card
    assert "not trained on it" not in card.split("## Trained on 12 rows")[0]
    assert "--train 16" in card
    recipe = json.loads((tmp_path / "trained" / "recipe.json").read_bytes())
    assert recipe["training"]["steps"] == training.steps
    assert recipe["recipe"]["train"] == 16


def test_the_recorded_steps_make_the_adapter_of_a_timed_training_again(
    tiny_bank: Bank, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_training(monkeypatch.setattr, lr=0.005)
    now = [0.0]  # until time is over

    def show(title: str, done: int, total: int) -> None:
        if title == "Training 2 of 2 layers on 12 rows" and done == 21:
            now[0] = 100.0

    with Session(tiny_bank) as session:
        dataset, recipe = session.open_dataset(new), Recipe(rank=4, train=16)
        plan, rows = plan_with_rows(dataset, session, Resolved(recipe))
        deadline = Deadline(60, lambda: now[0])
        timed = improve(make_adapter(plan), rows, session.evaluator, deadline, show)
    recorded = timed.recipe
    assert recorded.steps
    again = make(tiny_bank, new, train=16, steps=recorded.steps)
    assert (again.plan.recipe, again.outcome.training) == (recorded, timed.outcome.training)
    for ours, same in zip(again.pairs, timed.pairs, strict=True):
        assert all(map(np.array_equal, ours, same))


def test_without_time_the_adapter_is_the_generated_one(tiny_bank: Bank, new: Path) -> None:
    with Session(tiny_bank) as session:
        recipe = Recipe(rank=4, train=16)
        plan, rows = plan_with_rows(session.open_dataset(new), session, Resolved(recipe))
        timed = improve(make_adapter(plan), rows, session.evaluator, Deadline(0))
    assert timed.outcome.training is None
    assert timed.outcome.steps == 0
    generated = make(tiny_bank, new)
    for ours, same in zip(timed.pairs, generated.pairs, strict=True):
        assert all(map(np.array_equal, ours, same))


def test_a_training_that_does_not_help_leaves_the_adapter_as_it_was(
    tiny_bank: Bank, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_training(monkeypatch.setattr, lr=1e-9)
    generated, same = make(tiny_bank, new), make(tiny_bank, new, train=16)
    training = same.outcome.training
    assert training is not None
    assert (training.steps, training.end) == (0, training.start)
    for ours, before in zip(same.pairs, generated.pairs, strict=True):
        assert all(map(np.array_equal, ours, before))


def test_too_little_memory_is_an_error_with_a_way_out(
    tiny_bank: Bank, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "available_memory", lambda: 100_000)
    with pytest.raises(UsageError, match="GB of memory") as caught:
        make(tiny_bank, new, train=16)
    assert caught.value.hint == "leave out --train, or use a machine with more memory"


def test_rows_to_train_and_check_on_are_disjoint(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hf_lorameta")
    pool = [(f"question {i}", f"{i}") for i in range(40)]
    recipe = Recipe(train=100, check=8)
    rows = draw_rows(recipe, pool)
    drawn = [rows.train, rows.check]
    assert [len(part) for part in drawn] == [32, 8]  # rows to check on are kept
    assert sorted(row for part in drawn for row in part) == sorted(pool)
    require_rows(rows, recipe)
    assert caplog.messages == ["Only 32 labeled rows are left to train on, not 100"]
    recipe = Recipe(train=16, check=24)
    with pytest.raises(EmptyDatasetError, match="6 labeled rows left to train on, expected"):
        require_rows(draw_rows(recipe, pool[:30]), recipe)


def test_a_base_model_that_cannot_be_trained_is_refused(tiny_bank: Bank, new: Path) -> None:
    with Session(tiny_bank) as session:
        recipe = Recipe(train=16)
        plan, rows = plan_with_rows(session.open_dataset(new), session, Resolved(recipe))
        session.evaluator.model.forward = unable
        with pytest.raises(UsageError, match="cannot be run on a text alone: no images"):
            make_adapter(plan, rows, session)


def unable(**_: object) -> None:
    """The forward pass of a model that needs more than a text."""
    raise ValueError("no images")


def test_training_that_nobody_asked_for_never_costs_the_adapter(
    tiny_bank: Bank, new: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Session(tiny_bank) as session:
        resolved = Resolved(Recipe(rank=4), seconds=9, check=16, by_default=True)
        plan, rows = plan_with_rows(session.open_dataset(new), session, resolved)
        session.evaluator.model.forward = unable
        made = make_adapter(plan, rows, session, seconds=9, by_default=True)
        with pytest.raises(UsageError, match="cannot be run"):
            make_adapter(plan, rows, session, seconds=9)
    assert (made.outcome.training, made.outcome.check) == (None, None)
    assert "Not trained on your rows: LlamaForCausalLM cannot be run on a text alone" in caplog.text


def test_steps_are_taken_although_the_base_model_is_better(
    tiny_bank: Bank, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[object] = []
    monkeypatch.setattr(train, "_refuse_worse_training", lambda *of: refused.append(of))
    assert make(tiny_bank, new, train=16, steps=2).outcome.training
    assert refused == []
    make(tiny_bank, new, train=16)
    assert len(refused) == 1


@pytest.mark.parametrize("checked", [True, False])
def test_an_interruption_keeps_the_best_adapter_so_far(
    tiny_bank: Bank, new: Path, checked: bool
) -> None:
    """Also one that ends the check, too."""

    def interrupted(title: str, done: int, total: int) -> None:
        training = title.startswith("Training") and done == 15
        if training or (title.startswith("Checking") and not checked):
            raise KeyboardInterrupt

    with Session(tiny_bank, progress=interrupted) as session:
        resolved = Resolved(Recipe(rank=4, train=16, check=8))
        plan, rows = plan_with_rows(session.open_dataset(new), session, resolved)
        adapter = make_adapter(plan, rows, session)
    made = adapter.outcome
    assert made.training
    assert made.interrupted == adapter.provenance["interrupted"] == "training"
    assert bool(made.check) == checked
    assert made.steps == adapter.recipe.steps == made.training.steps > 0
    assert Recipe.of(**adapter.recipe.model_dump()) == adapter.recipe


@pytest.mark.parametrize("asked", [None, 8])
def test_an_interruption_of_the_check_keeps_an_adapter_that_was_trained(
    tiny_bank: Bank, new: Path, asked: int | None
) -> None:
    def interrupted(title: str, done: int, total: int) -> None:
        if title.startswith("Checking"):
            raise KeyboardInterrupt

    with Session(tiny_bank, progress=interrupted) as session:
        dataset = session.open_dataset(new)
        plan, rows = plan_with_rows(dataset, session, Resolved(Recipe(rank=4, train=16, check=8)))
        plan = replace(plan, recipe=plan.recipe.model_copy(update={"check": asked}))
        adapter = make_adapter(plan, rows, session)
        with pytest.raises(KeyboardInterrupt):
            make_adapter(plan, replace(rows, train=()), session)
    assert adapter.outcome.training
    assert adapter.outcome.check is None
    assert adapter.to_dict()["interrupted"] == "check"


def test_an_interruption_before_a_step_helped_says_that_there_is_no_adapter(
    tiny_bank: Bank, tmp_path: Path
) -> None:
    lines = [{"input": f"say {word} {i}", "output": word} for i in range(20) for word in "abcd"]
    new = tiny.write_task(tmp_path, "many", lines)

    def interrupted(title: str, done: int, total: int) -> None:
        if title.startswith("Training"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        generate(new, tiny_bank, Recipe(rank=4, train=80), progress=interrupted)
    [note] = caught.value.__notes__
    assert note == "The training was interrupted before a step had helped: no adapter was made"


def test_an_adapter_worse_than_the_base_model_is_refused(
    tiny_bank: Bank, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train_rows.train_further

    def worse(*args: Any, **options: Any) -> train_rows.Trained:
        result = real(*args, **options)
        assert result.end
        better = result.end._replace(base=RowLosses([0.0] * 4, [1] * 4))
        return replace(result, start=better, end=better)

    monkeypatch.setattr(train_rows, "train_further", worse)
    with pytest.raises(AdapterError, match="worse than the base model: an output token"):
        make(tiny_bank, new, train=16)


def test_a_check_counts_the_answers_that_an_evaluation_counts(
    tiny_bank: Bank, tmp_path: Path
) -> None:
    with Session(tiny_bank) as session:
        resolved = Resolved(Recipe(rank=4, train=32))
        planned, rows = plan_with_rows(open_dataset(tiny.rows(0)), session, resolved)
        tested = rows.train[:16]
        made = make_adapter(planned, replace(rows, check=tested), session)
        folder = made.save_pretrained(tmp_path / "a")
        adapters = {"base": None, "generated": folder}  # which PEFT attaches
        report = compare(session.evaluator, tested, adapters, rows.prompt)
    checked, again = made.outcome.check, check_of(report, len(rows.prompt))
    assert checked
    assert checked.right == again.right
    assert checked.right.end > checked.right.base
    assert (checked.base, checked.end) == pytest.approx((again.base, again.end), abs=1e-2)


def test_a_check_scores_as_many_rows_as_there_is_time_for_and_generates_texts_if_it_suffices(
    tiny_bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hf_lorameta")
    lines = [{"input": f"say {i}", "output": f"{i} is what was said just now"} for i in range(80)]
    with Session(tiny_bank) as session:
        resolved = Resolved(Recipe(rank=4), check=16)
        planned, rows = plan_with_rows(open_dataset(lines), session, resolved)
        checks = [
            make_adapter(planned, rows, session, seconds=seconds).outcome.check
            for seconds in (0, 0.01, 200)
        ]
    assert [check and check.rows for check in checks] == [16, 4, 16]
    assert caplog.text.count("Time ran out after 4 of 16 rows to check on") == 1
    assert [check and check.graded is not None for check in checks] == [True, False, True]
