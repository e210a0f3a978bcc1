"""A classifier on words beside an adapter: what it answers right, in check, verdict and card."""

import json
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path

import pytest

from tests.support.fast_training import fast_training
from tests.training import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import Bank, Generation, generate  # noqa: E402 - they import torch
from hf_lorameta.cards.results import Outcome  # noqa: E402
from hf_lorameta.deadline import Deadline  # noqa: E402
from hf_lorameta.engines import word_classifier  # noqa: E402
from hf_lorameta.engines.scoring import LoraWeights  # noqa: E402
from hf_lorameta.pipeline.check import Check, CheckSettings  # noqa: E402
from hf_lorameta.pipeline.rows import Rows  # noqa: E402
from hf_lorameta.pipeline.session import Session  # noqa: E402
from hf_lorameta.pipeline.stages import Context, Unseen, Work  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSIFIER = "a classifier on words alone"


@pytest.fixture(scope="module")
def bank(tiny_bank: Bank) -> Bank:
    return tiny_bank


def made(bank: Bank, lines: list[dict[str, str]]) -> Generation:
    return generate(lines, bank, rank=4, budget=600)


@pytest.mark.parametrize("count", [16, 200])
def test_it_answers_the_rows_that_are_checked_on_from_those_that_are_trained_on(
    bank: Bank, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In folds of few rows, and on held-out rows of many; the words of an input say its label."""
    fast_training(monkeypatch.setattr, steps=4)
    words = tiny.WORDS
    lines = [
        {"input": f"say {words[i % 2]} now {i}", "output": words[8 + i % 2]} for i in range(count)
    ]
    adapter = made(bank, lines)
    check = adapter.outcome.check
    assert check
    assert check.rows == (16 if count == 16 else 48)
    assert check.right["classifier"] == check.rows, "the words tell the labels"
    folder = adapter.save_pretrained(tmp_path / "a")
    assert json.loads((folder / "recipe.json").read_bytes())["check"]["counted"]["classifier"]
    line = f"| {CLASSIFIER} | {check.rows} | – |"
    assert line in (folder / "README.md").read_text()


def test_where_words_say_nothing_it_is_the_most_frequent_label(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_training(monkeypatch.setattr, steps=4)
    lines = [{"input": f"say {i}", "output": "one" if i % 4 else "two"} for i in range(200)]
    check = made(bank, lines).outcome.check
    assert check
    assert check.right["classifier"] == check.right["most-frequent"] == 36


def test_where_outputs_are_no_labels_there_is_none(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_training(monkeypatch.setattr, steps=4)
    lines = [{"input": f"say {i}", "output": f"{i // 2 + i % 2}"} for i in range(40)]
    check = made(bank, lines).outcome.check
    assert check
    assert "classifier" not in check.right


def test_none_is_trained_for_folds_that_time_left_out(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, lines = list[int](), tiny.labeled(16)

    def counted(trained_on: object, texts: Sequence[str]) -> list[str]:
        asked.append(len(texts))
        return [*texts]

    monkeypatch.setattr(word_classifier, "predicted_labels", counted)
    rows = [(line["input"], line["output"]) for line in lines]
    folds = (Unseen(rows[:8], None, (), rows[8:]), Unseen(rows[8:], None, (), rows[:8]))
    adapter = generate(lines, bank, rank=4, budget=0)
    weights = LoraWeights(adapter.layout, adapter.pairs)
    clock = chain([0.0, 0.0], repeat(9.0))  # as long as it takes to count a part
    with Session(bank) as session:
        work = Work(
            plan=adapter.plan, rank=4, combined=weights, weights=weights, rows=Rows(),
            outcome=Outcome(), unseen=folds,
        )  # fmt: skip
        Check(CheckSettings()).run(
            work, Context(session, Deadline(1, lambda: next(clock)), lambda _: 0.0)
        )
    assert asked == [8]
