"""Rows to train and to check on, and adapters that are refused."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta import Generation, Plan, open_dataset
from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.cards.record import Record
from hf_lorameta.cards.results import Training
from hf_lorameta.data.chat_form import ChatForm
from hf_lorameta.engines.label_tree import IndistinctLabelsError
from hf_lorameta.engines.scoring import Scores, score
from hf_lorameta.errors import AdapterError, EmptyDatasetError
from hf_lorameta.pipeline.generate import plan_with_rows
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.read import read_dataset, token_counting
from hf_lorameta.pipeline.request import Request
from hf_lorameta.pipeline.resolve import Resolved
from hf_lorameta.pipeline.rows import Rows, RowsAsked, row_sample, rows_for, rows_used
from hf_lorameta.pipeline.session import Session
from hf_lorameta.types import Row, no_progress
from tests.support.plain_bank import plain_bank
from tests.training import tiny


class FakeBase:
    """Stands in for a base model: the loss is (1 - norm / best)² of an update's norm.

    Half of the answers are right, none where the loss is 2 or more.
    """

    scored_form: ChatForm | None = None

    def __init__(self, best: float) -> None:
        self.best, self.norm = best, 0.0

    def evaluate(
        self,
        rows: Sequence[Row],
        adapter: Any = None,
        generate: bool = True,
        done: Any = no_progress,
    ) -> tuple[Scores, list[str]]:
        self.norm = norm(adapter.pairs if adapter else ())
        done(2 * len(rows))
        loss = self.loss(rows)
        answers = [output if i % 2 and not loss >= 2 else "" for i, (_, output) in enumerate(rows)]
        return score(loss, rows, answers, complete=generate), answers

    def attached(self, adapter: Any) -> Any:
        """Score no labels, as if their tokens were equal."""
        raise IndistinctLabelsError

    def loss(self, rows: Sequence[Row]) -> float:
        return (1 - self.norm / self.best) ** 2


def norm(pairs: Any) -> float:
    """Return the Frobenius norm of all updates together."""
    return float(np.sqrt(sum(float(((A @ A.T) * (B.T @ B)).sum()) for A, B in pairs)))


def session_with(runner: FakeBase) -> Session:
    """Return a session that uses this instead of loading a base model."""
    session = Session()
    session.__dict__ |= {"evaluator": runner, "_base_folder": Path()}
    return session


def prepared(data: Path, **settings: Any) -> tuple[Plan, Rows]:
    resolved = Resolved(Request(top_k=3, **settings))
    return plan_with_rows(open_dataset(data), Session(plain_bank()), resolved)


def made(data: Path, runner: FakeBase, **settings: Any) -> Generation:
    plan, rows = prepared(data, **settings)
    return make_adapter(plan, rows, session_with(runner), Request(**settings).stages())


def recorded(plan: Plan, rows: Rows) -> Record:
    """Return the record of an adapter that was made with these rows."""
    return plan.record.model_copy(update={"rows": rows.drawn})


def pool(data: Path, **settings: Any) -> tuple[Row, ...]:
    asked, counting = Resolved(Request(**settings)), token_counting(plain_bank())
    return read_dataset(open_dataset(data), asked.recipe, counting, collect=asked.rows.pool).pool


def test_the_rows_that_each_method_has_scored_are_reported_and_the_time(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, rows = prepared(data, check=12)
    shown: list[tuple[str, int, int]] = []
    session = session_with(FakeBase(100.0))
    session.progress = lambda *stage: shown.append((*stage, 0, 0)[:3])
    monkeypatch.setattr(time, "perf_counter", lambda: float(len(shown)))
    adapter = make_adapter(plan, rows, session, Request(check=12).stages())
    assert adapter.seconds == sum(stage[0] != "Reading adapters" for stage in shown)
    checked = [stage for stage in shown if stage[0].startswith("Checking")]
    assert checked[0][0] == "Checking 12 rows, the base model"
    assert checked[-1][1:] == (12, 12)
    assert ("Checking 12 rows, the adapter", 12, 12) in checked


# --- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [None, 8, 16, 24])
def test_rows_to_check_are_labeled_and_were_not_trained_on(data: Path, train: int | None) -> None:
    rows = prepared(data, train=train, check=12)[1]
    trained = train or 0
    assert (len(rows.train), len(rows.held_out), len(rows.check)) == (trained, 0, 12)
    assert len(set(rows.used)) == trained + 12
    assert rows.foldable == ()
    assert all(output.strip() for _, output in rows.check)
    assert rows.check != prepared(data, train=train, check=12, seed=1)[1].check


def test_the_pool_is_drawn_from_the_rows_that_are_read(data: Path) -> None:
    labeled = [row for row in open_dataset(data).rows() if row[1]]
    assert len(labeled) == 40
    assert sorted(pool(data, train=8)) == sorted(labeled)
    assert sorted(pool(data, train=8, max_rows=9)) == sorted(labeled[:8])  # a row has no output
    assert pool(data) == ()


def test_rows_of_a_dataset_sorted_by_label_are_of_all_labels(tmp_path: Path) -> None:
    """As in IMDB: the first half is negative, and the end of the file is far away."""
    labels = ["neg"] * 1500 + ["pos"] * 1500
    lines = [{"input": f"review {i}", "output": label} for i, label in enumerate(labels)]
    path = tiny.write_task(tmp_path, "sorted", lines)
    plan, rows = prepared(path, train=16, check=16)
    for drawn in (rows.train, rows.check):
        assert 0.3 <= sum(output == "neg" for _, output in drawn) / len(drawn) <= 0.7
    assert rows == prepared(path, train=16, check=16)[1]
    used = rows_used(recorded(plan, rows), open_dataset(path))
    assert used == [*rows.train, *rows.check]


@pytest.mark.parametrize(
    ("asked", "number", "trained"),
    [
        ({"train": 2100}, 2500, 2100),
        ({"train": 2100, "check": 100}, 2500, 2100),
        ({"train": 2100}, 2120, 2072),
        ({"check": 2200}, 2500, 300),
        ({"check": 2200}, 5000, 2000),
        ({}, 5000, 2000),
    ],
)
def test_a_recipe_with_steps_draws_the_rows_that_were_trained_on(
    asked: dict[str, Any], number: int, trained: int
) -> None:
    """Whatever was asked for, and however many rows there were."""

    def draw(asked: RowsAsked) -> Rows:
        pool = row_sample(asked.seed, asked.pool)
        pool.draw_from((f"review {i}", f"{i % 3}") for i in range(number))
        return rows_for(asked, pool.rows)

    first = RowsAsked(**asked, all_rows="train" not in asked)
    drawn = draw(first)
    held_out = 0 if first.check else 48
    assert (len(drawn.train), len(drawn.held_out)) == (trained, held_out)
    same = draw(replace(first, train=trained, steps=True, all_rows=False))
    assert (same.train, same.pool) == (drawn.train, drawn.pool)


def test_a_row_that_occurs_twice_is_not_both_trained_and_checked_on(tmp_path: Path) -> None:
    lines = [{"input": f"review {i % 12}", "output": "fine"} for i in range(40)]
    rows = prepared(tiny.write_task(tmp_path, "twice", lines), train=8, check=4)[1]
    assert len(rows.used) == len(set(rows.used)) == 12


def test_rows_that_an_adapter_was_trained_or_checked_on_are_recognized(data: Path) -> None:
    plan, rows = prepared(data, train=8, check=12)
    record, same = recorded(plan, rows), open_dataset(data)
    expected = sorted([*rows.train, *rows.check])
    assert len(expected) == 20
    assert sorted(rows_used(record, same) or ()) == expected
    assert rows_used(prepared(data)[0].record, same) == []
    assert rows_used(record, replace(same, split="test")) == []
    published: dict[str, Any] = {"private": False, "id": "user/name", "config": same.config}
    dataset = record.dataset.model_copy(update=published)
    record = record.model_copy(update={"dataset": dataset})
    assert rows_used(record, replace(same, id="user/other")) == []
    assert sorted(rows_used(record, replace(same, **published)) or ()) == expected


def test_a_private_dataset_with_another_number_of_rows_is_another_dataset(data: Path) -> None:
    record = recorded(*prepared(data, train=8))
    assert rows_used(record, open_dataset(data))
    with data.open("a") as file:
        file.write('{"input": "one", "output": "more"}\n')
    assert rows_used(record, open_dataset(data)) == []


def test_the_rows_of_an_adapter_are_known_from_its_recorded_numbers_alone(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a pool, shares and limits of another version, they are the same."""
    plan, rows = prepared(data, train=16)
    record, used = recorded(plan, rows), {*rows.train, *rows.held_out}
    for name, value in {"POOL_ROWS": 30, "_HELD_OUT_SHARE": 2, "_MOST_HELD_OUT": 9}.items():
        monkeypatch.setattr(f"hf_lorameta.pipeline.rows.{name}", value)
    assert set(rows_used(record, open_dataset(data)) or ()) == used


def test_rows_that_the_caller_drew_are_not_known(data: Path) -> None:
    training = Training(rows=16, steps=1, seen=8, labeled=40)
    record = recorded(*prepared(data, train=16))
    record = record.model_copy(update={"rows": None, "training": training})
    assert rows_used(record, open_dataset(data)) is None
    assert rows_used(record, replace(open_dataset(data), split="test")) == []


@pytest.mark.parametrize(
    ("asked", "rows", "message", "advice"),
    [
        ({"train": 38, "check": 36}, 40, "4 .* to train on, expected at least 8",
         "leave out --train, or lower --check, or name"),
        ({"train": 8}, 7, "7 .* to train on, expected at least 8", "leave out --train, or name"),
        ({"check": 4}, 3, "3 .* to check on, expected at least 4", "leave out --check, or name"),
        ({"train": 8}, 0, "0 .* to train on, expected at least 8", "leave out --train, or name"),
    ],
)  # fmt: skip
def test_too_few_rows_for_a_recipe_are_refused(
    asked: dict[str, Any], rows: int, message: str, advice: str
) -> None:
    labeled = [(f"{i}", "a") for i in range(rows)]
    with pytest.raises(EmptyDatasetError, match=message) as error:
        rows_for(RowsAsked(**asked), labeled)
    assert error.value.hint.startswith(advice)
    assert rows_for(RowsAsked(), labeled).used == []


def test_rows_to_check_on_that_the_recipe_does_not_ask_for_only_make_a_report(data: Path) -> None:
    plan, rows = prepared(data)
    plain, runner = make_adapter(plan), FakeBase(1e-6)
    held_out = replace(rows, held_out=(("a", "b"),) * 4)
    reported = make_adapter(plan, held_out, session_with(runner), Request().stages())
    assert reported.outcome.check
    losses = reported.outcome.check.losses
    assert losses["generated"] > losses["base"]
    for ours, same in zip(reported.pairs, plain.pairs, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(ours, same, strict=True))


# --- the check -----------------------------------------------------------------------------------


def test_card_and_recipe_report_the_check(data: Path, tmp_path: Path) -> None:
    full = norm(make_adapter(prepared(data)[0]).pairs)
    text = saved_card(made(data, FakeBase(full), check=16), tmp_path / "a")
    section = text.split("## Checked on 16 rows")[1].split("##")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("|")][2:]
    assert [name.strip() for name, _, _ in rows] == [
        "the adapter", "the base model", "3 examples in the prompt",
    ]  # fmt: skip
    assert [right.strip() for _, right, _ in rows] == ["8", "8", "8"]
    losses = [float(loss) for _, _, loss in rows]
    assert losses == pytest.approx([0, 1, 1], abs=0.01)
    assert "--check 16" in text.split("How to reproduce it")[1]
    recipe = json.loads((tmp_path / "a" / "recipe.json").read_bytes())
    assert recipe["recipe"]["check"] == 16


def saved_card(generation: Generation, folder: Path) -> str:
    return (generation.save_pretrained(folder) / CARD_FILE).read_text(encoding="utf-8")


def test_an_adapter_whose_loss_is_not_a_number_is_unlikely_to_help(data: Path) -> None:
    class Unstable(FakeBase):
        def loss(self, rows: Sequence[Row]) -> float:
            return math.nan if self.norm > 0.9 * full else super().loss(rows)

    full = norm(make_adapter(prepared(data)[0]).pairs)
    with pytest.raises(AdapterError) as error:
        made(data, Unstable(full), check=8)
    assert error.value.code == "adapter.unlikely-to-help"
    plan, rows = prepared(data)
    held_out = replace(rows, held_out=(("a", "b"),) * 4)
    counted = make_adapter(plan, held_out, session_with(Unstable(full)), Request().stages())
    reported = counted.outcome.check
    assert reported
    assert reported.adapter.loss == math.inf
    assert (counted.verdict.level, counted.verdict.code) == ("unlikely", "verdict.overflow")


def test_a_checked_adapter_that_is_unlikely_to_help_is_refused(data: Path) -> None:
    good = made(data, FakeBase(1e9), check=8)  # as the base model
    assert good.verdict.level == "unsure"
    with pytest.raises(AdapterError) as error:
        made(data, FakeBase(1e-9), check=8)
    assert error.value.code == "adapter.unlikely-to-help"
    assert "leave out --check" in error.value.hint
