"""An adapter that is trained further on rows of its dataset, from the recipe to the card."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.codes import raises_code
from tests.support.fast_training import fast_training
from tests.training import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import Bank, Generation, generate, open_dataset  # noqa: E402 - torch
from hf_lorameta.cards.results import Drawn, check_result  # noqa: E402
from hf_lorameta.deadline import Deadline  # noqa: E402
from hf_lorameta.engines.comparing import Group, compare  # noqa: E402
from hf_lorameta.engines.scoring import LoraWeights  # noqa: E402
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator  # noqa: E402
from hf_lorameta.engines.transformers.forward import PassRunner  # noqa: E402
from hf_lorameta.pipeline import choose  # noqa: E402
from hf_lorameta.pipeline import generate as generating  # noqa: E402
from hf_lorameta.pipeline.generate import plan_with_rows  # noqa: E402
from hf_lorameta.pipeline.make import make_adapter  # noqa: E402
from hf_lorameta.pipeline.request import Request  # noqa: E402
from hf_lorameta.pipeline.resolve import Resolved  # noqa: E402
from hf_lorameta.pipeline.rows import RowsAsked, draw_rows, rows_for  # noqa: E402
from hf_lorameta.pipeline.session import Session  # noqa: E402
from hf_lorameta.training import device, folds  # noqa: E402
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
    general: dict[str, Any] = {"general_steps": 8, "general_rows": 4, "general_lr": 0.01}
    general["forms"] = True
    return tiny.write_bank(tmp_path_factory.mktemp, **general)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_training_lowers_the_loss_and_the_card_says_so(
    bank: Bank, new: Path, tmp_path: Path
) -> None:
    generated, trained = make(bank, new), make(bank, new, train=16, check=8)
    training = trained.outcome.training
    assert training is not None
    assert (training.rows, training.folds) == (16, 0)
    assert training.steps > 0
    assert {module.name.rpartition(".")[2] for module in trained.layout} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert trained.outcome.check is not None
    generated.save_pretrained(tmp_path / "generated")
    trained.save_pretrained(tmp_path / "trained")
    pool = [(row["input"], row["output"]) for row in tiny.rows(3)]
    assert trained.outcome.drawn == Drawn(pool=48, train=16, held_out=0, check=8)
    drawn = draw_rows(trained.outcome.drawn, pool, seed=0)
    others = [row for row in pool if row not in drawn.train]
    assert loss(bank, others, tmp_path / "trained") < loss(bank, others, tmp_path / "generated")
    assert trained.outcome.check.losses["generated"] == pytest.approx(
        loss(bank, list(drawn.check), tmp_path / "trained"), abs=0.05
    )
    card = (tmp_path / "trained" / "README.md").read_text()
    assert "**Trained on 16 rows of the dataset**" in card
    assert "on 8 rows of the dataset" in card
    assert "No training took place" not in card
    assert "not trained on it" not in card.split("## Trained on 16 rows")[0]
    assert f"    --train 16 \\\n    --steps {training.steps} \\\n" in card
    recipe = json.loads((tmp_path / "trained" / "recipe.json").read_bytes())
    assert recipe["training"]["steps"] == recipe["recipe"]["steps"] == training.steps
    assert recipe["recipe"]["train"] == 16
    assert recipe["rows"] == {"pool": 48, "train": 16, "held_out": 0, "check": 8}


@pytest.mark.parametrize(("steps", "seen"), [(1, 8), (2, 16), (4, 24)])
def test_a_record_and_its_card_state_the_rows_that_steps_saw(
    tiny_bank: Bank, new: Path, tmp_path: Path, steps: int, seen: int
) -> None:
    made = make(tiny_bank, new, train=24, steps=steps)
    training = made.outcome.training
    assert training
    assert (training.seen, training.rows, training.labeled) == (seen, 24, 48)
    stored = json.loads((made.save_pretrained(tmp_path / "a") / "recipe.json").read_bytes())
    assert {"seen": seen, "rows": 24, "labeled": 48}.items() <= stored["training"].items()
    for of_record in (training, replace(training, seen=seen - 1)):
        other = replace(made, outcome=replace(made.outcome, training=of_record))
        card = (other.save_pretrained(tmp_path / "b", overwrite=True) / "README.md").read_text()
        assert card.count(of_record.seen_rows) == 2, "the beginning and the heading"


def same_weights(ours: Generation, others: Generation) -> bool:
    pairs = zip(ours.pairs, others.pairs, strict=True)
    return all(np.array_equal(x, y) for pair in pairs for x, y in zip(*pair, strict=True))


def until(step: int, now: list[float]) -> Callable[[str, int, int], None]:
    """Return a progress for which time is over after a step."""

    def show(title: str, done: int, total: int) -> None:
        if title.startswith("Training") and done == step:
            now[0] = 1000.0

    return show


@pytest.mark.parametrize(
    ("settings", "trained", "drawn"),
    [
        ({}, 36, Drawn(48, 36, 12, 0)),
        ({"check": 8}, 40, Drawn(48, 40, 0, 8)),
        ({"train": 20}, 20, Drawn(48, 20, 12, 0)),
    ],
)
def test_the_recorded_steps_make_the_adapter_of_a_timed_training_again(
    tiny_bank: Bank, new: Path, settings: dict[str, int], trained: int, drawn: Drawn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("hf_lorameta.pipeline.rows.MOST_FEW_ROWS", 8)
    fast_training(monkeypatch.setattr, lr=0.005)
    now = [0.0]
    resolved = Resolved(Request.of(rank=4, budget=60, **settings))
    with Session(tiny_bank, progress=until(21, now)) as session:
        plan, rows = plan_with_rows(session.open_dataset(new), session, resolved)
        deadline = Deadline(60.0, lambda: now[0])
        timed = make_adapter(plan, rows, session, resolved.stages, deadline=deadline)
    training, recorded = timed.outcome.training, timed.replay
    assert training
    assert (training.rows, timed.outcome.drawn) == (trained, drawn)
    assert 0 < training.steps <= 21
    assert (recorded["train"], recorded["steps"]) == (trained, training.steps)
    again = generate(new, tiny_bank, recorded)
    assert again.replay == recorded
    assert same_weights(again, timed)
    assert again.outcome.drawn == replace(drawn, held_out=0)  # nothing is counted


def test_few_rows_without_time_for_folds_are_trained_on_but_for_a_quarter(
    tiny_bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if that leaves the fewest rows that a recipe may state."""
    monkeypatch.setattr(folds, "_SPARE", 1e9)
    data = tiny.write_task(tmp_path, "few", tiny.rows(3, 8))
    adapter = generate(data, tiny_bank, rank=4, budget=600)
    training, check = adapter.outcome.training, adapter.outcome.check
    assert training
    assert check
    assert (training.rows, training.folds, check.rows) == (6, 0, 2)
    assert training.steps
    again = generate(data, tiny_bank, adapter.replay)
    assert same_weights(again, adapter)


def test_rows_that_are_asked_for_come_before_folds(tiny_bank: Bank, new: Path) -> None:
    """Of enough others, some are held out; rows to check on are never divided."""
    pool = [(row["input"], row["output"]) for row in tiny.rows(3)]
    assert rows_for(RowsAsked(train=36), pool).foldable == ()
    assert len(rows_for(RowsAsked(train=37), pool).foldable) == 37
    assert len(rows_for(RowsAsked(all_rows=True), pool).foldable) == 48
    assert rows_for(RowsAsked(check=8, all_rows=True), pool).foldable == ()
    assert len(rows_for(RowsAsked(all_rows=True, count=False), pool).train) == 48
    assert rows_for(RowsAsked(train=37, steps=True), pool).foldable == ()
    assert len(rows_for(RowsAsked(train=36, steps=True), pool).held_out) == 12
    assert rows_for(RowsAsked(train=36, steps=True, count=False), pool).held_out == ()
    repeated = rows_for(RowsAsked(train=6, steps=True, count=False), pool[:8])
    assert (len(repeated.train), repeated.held_out) == (6, ())
    more = [(f"{i}", "ab"[i % 2]) for i in range(200)]
    assert len(rows_for(RowsAsked(train=100), more[:120]).foldable) == 100
    assert rows_for(RowsAsked(all_rows=True), more[:101]).foldable == ()


def test_without_time_the_adapter_is_the_generated_one(tiny_bank: Bank, new: Path) -> None:
    with Session(tiny_bank) as session:
        resolved = Resolved(Request(rank=4, budget=1, check=False))
        plan, rows = plan_with_rows(session.open_dataset(new), session, resolved)
        timed = make_adapter(plan, rows, session, resolved.stages, deadline=Deadline(1e-9))
    assert timed.outcome.training is None
    assert timed.outcome.out_of_time
    assert (timed.repeating.recipe, timed.repeating.budget) == (plan.replay, 0)
    warnings = [str(r) for r in timed.remarks if r.level == "warning"]
    assert 'before the first training step. To allow more, add budget="2m".' in " ".join(warnings)
    assert same_weights(timed, make(tiny_bank, new))


def test_rows_that_are_too_long_to_be_trained_on_whole_are_counted(tiny_bank: Bank) -> None:
    long = [{"input": "a " * 600, "output": "b"}, {"input": "a", "output": "b " * 300}]
    rows = [*tiny.rows(3)[:8], *long]
    trained = generate(rows, tiny_bank, top_k=2, train=10, steps=1).outcome.training
    assert trained is not None
    assert (trained.rows, trained.cut) == (10, 2)


def test_too_little_memory_is_an_error_with_a_way_out(
    tiny_bank: Bank, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "available_memory", lambda: 100_000)
    with raises_code("memory.too-little") as caught:
        make(tiny_bank, new, train=16)
    assert "--train" in caught.value.hint


def test_rows_to_train_and_check_on_are_disjoint(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hf_lorameta")
    pool = [(f"question {i}", f"{i}") for i in range(40)]
    rows = rows_for(RowsAsked(train=100, check=8), pool)
    drawn = [rows.train, rows.held_out, rows.check]
    assert [len(part) for part in drawn] == [32, 0, 8]  # rows to check on are kept
    assert sorted(row for part in drawn for row in part) == sorted(pool)
    assert caplog.messages == ["Only 32 labeled rows are left to train on, not 100"]
    with raises_code("rows.too-few", match="6"):
        rows_for(RowsAsked(train=16, check=24), pool[:30])


def test_a_base_model_that_cannot_be_trained_is_refused(tiny_bank: Bank, new: Path) -> None:
    with Session(tiny_bank) as session:
        resolved = Resolved(Request(train=16))
        plan, rows = plan_with_rows(session.open_dataset(new), session, resolved)
        session.evaluator.model.forward = unable
        with raises_code("base.needs-more-than-text"):
            make_adapter(plan, rows, session, resolved.stages)


def unable(**_: object) -> None:
    """The forward pass of a model that needs more than a text."""
    raise ValueError("no images")


def test_a_check_counts_the_answers_that_an_evaluation_counts(
    tiny_bank: Bank, tmp_path: Path
) -> None:
    with Session(tiny_bank) as session:
        resolved = Resolved(Request(rank=4, train=32))
        planned, rows = plan_with_rows(open_dataset(tiny.rows(0)), session, resolved)
        tested = rows.train[:16]
        rows = replace(rows, held_out=tested)
        made = make_adapter(planned, rows, session, resolved.stages)
        folder = made.save_pretrained(tmp_path / "a")
        adapters = {"base": None, "generated": folder}  # which PEFT attaches
        report = compare(session.evaluator, [Group(tested, adapters, rows.prompt)])
    checked, again = made.outcome.check, check_result(report)
    assert checked
    assert {m: n for m, n in checked.right.items() if m != "classifier"} == again.right
    assert checked.right["generated"] > checked.right["base"]
    assert checked.losses == pytest.approx(again.losses, abs=1e-2)


def test_answers_in_folds_are_those_of_adapters_that_were_not_trained_on_their_rows(
    tiny_bank: Bank, tmp_path: Path
) -> None:
    """Each is made again from the rows outside of its fold; few rows are all trained on."""
    from hf_lorameta.training.folds import divided

    lines = tiny.labeled(16)
    rows = [(row["input"], row["output"]) for row in lines]
    with Session(tiny_bank) as session:
        resolved = Resolved(Request(rank=4, budget=600))
        planned, drawn = plan_with_rows(open_dataset(lines), session, resolved)
        made = make_adapter(planned, drawn, session, resolved.stages)
        training, check = made.outcome.training, made.outcome.check
        assert training
        assert check
        encoded = session.evaluator.encode(drawn.foldable)
        right = loss = 0.0
        for fold in divided(encoded, training.folds, seed=0):
            inside = [drawn.foldable[i] for i in fold]
            outside = tuple(row for row in drawn.foldable if row not in inside)
            stages = Request(train=12, steps=training.steps, check=False).stages()
            others = replace(drawn, train=outside, held_out=(), foldable=())
            adapter = make_adapter(planned, others, session, stages)
            group = Group(inside, {"generated": LoraWeights(adapter.layout, adapter.pairs)})
            scores = compare(session.evaluator, [group]).scores["generated"]
            right, loss = right + scores.right, loss + scores.loss
    assert sorted(drawn.foldable) == sorted(rows)
    assert check.adapter.right == right
    assert check.adapter.loss == pytest.approx(
        loss / training.folds, rel=0.02
    )  # folds of equal lengths
    assert (training.rows, training.folds, check.rows) == (16, 4, 16)
    assert check.right["generated"] > check.right["base"]
    assert "3-shot" in check.counted
    stored = json.loads((made.save_pretrained(tmp_path / "few") / "recipe.json").read_bytes())
    assert (stored["recipe"]["train"], stored["recipe"]["steps"]) == (16, training.steps)
    assert stored["rows"] == {"pool": 16, "train": 12, "held_out": 4, "check": 0}
    assert stored["training"]["folds"] == 4
    card = " ".join((tmp_path / "few" / "README.md").read_text().split())
    assert "**Trained on 16 rows of the dataset**" in card
    assert "## Checked on 16 rows" in card
    data = tiny.write_task(tmp_path, "few", lines)
    again = make(tiny_bank, data, train=16, steps=training.steps)
    assert same_weights(again, made)
    assert again.replay == made.replay


def test_a_check_scores_as_many_rows_as_there_is_time_for(tiny_bank: Bank) -> None:
    """None after the deadline; without a limit, answers that are texts are graded, too."""
    lines = [{"input": f"say {i}", "output": f"{i} is what was said just now"} for i in range(80)]
    now = [0.0]

    def progress(title: str, done: int, total: int) -> None:
        now[0] += 100.0 * (title.startswith("Checking") and done == 8)

    with Session(tiny_bank, progress=progress) as session:
        planned, rows = plan_with_rows(
            open_dataset(lines), session, Resolved(Request(rank=4, budget=600))
        )
        rows = replace(rows, held_out=rows.held_out[:16], foldable=())
        made = [
            make_adapter(planned, rows, session, Request().stages(), deadline=deadline)
            for deadline in (Deadline(60.0, lambda: now[0]), Deadline(), Deadline(1e-9))
        ]
    checks = [adapter.outcome.check for adapter in made]
    assert [check and check.rows for check in checks] == [8, 16, None]
    codes = [{r.code for r in adapter.remarks} & {"budget.few-counted"} for adapter in made]
    assert codes == [{"budget.few-counted"}, set(), set()]
    assert checks[1]
    assert checks[1].measure is not None


def test_a_time_limit_holds_for_all_that_is_done(
    tiny_bank: Bank, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts from the start, and what follows the steps has its part."""
    now = [0.0]

    def slow(owner: Any, name: str, seconds: float, of_rows: bool = False) -> None:
        function = getattr(owner, name)

        def slowed(*args: Any, **options: Any) -> Any:
            now[0] += seconds * (len(args[1]) if of_rows else 1)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, slowed)

    slow(generating, "read_dataset", 15)
    slow(Session, "fetch_base_model", 1000)  # does not count
    slow(PassRunner, "backward", 2)
    slow(TorchEvaluator, "evaluate", 0.2, of_rows=True)
    monkeypatch.setattr(choose, "labels_in", lambda rows: ())
    of_a_fifth = partial(Deadline, cpu=lambda: 0.2 * now[0])
    monkeypatch.setattr("hf_lorameta.pipeline.session.Deadline", of_a_fifth)
    with Session(tiny_bank, clock=lambda: now[0]) as session:
        resolved = Resolved(Request(rank=4, budget=60))
        outcome = generating.make(session.open_dataset(new), session, resolved).outcome
    assert 0.6 * 60 < now[0] - 1000 <= 60 - 1 / 0.2
    assert outcome.training
    assert outcome.check
    assert (outcome.training.steps > 3, outcome.check.rows > 0) == (True, True)
    assert outcome.pace
    assert outcome.pace.steps_per_minute == 30
