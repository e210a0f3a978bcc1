"""Scores, reports and progress, without a model."""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

import pytest

from hf_lorameta.data.chat_form import ChatForm, ChatMode
from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.comparing import Group, compare
from hf_lorameta.engines.scoring import (
    Adapter,
    Evaluator,
    Report,
    Sample,
    Scores,
    may_be_right,
    score,
)
from hf_lorameta.types import Output, Row, no_progress


def text_scores(outputs: list[str], references: list[str]) -> tuple[object, ...]:
    """(Rouge-L, exact match, contains)."""
    pytest.importorskip("rouge_score")
    rows = [("", reference) for reference in references]
    return astuple(score(0.0, rows, outputs, complete=True))[1:4]


def test_text_scores_equal_hand_computed_values() -> None:
    # cats stems to cat: 3 of 3 words, 3 of 4 words: f = 2·1·¾ / 1¾ = 6/7
    assert text_scores(["the cat sat"], ["the cats sat down"]) == (pytest.approx(6 / 7), 0, 0)
    assert text_scores([" Yes. "], ["Yes."]) == (1, 1, 1)
    assert text_scores(["yes"], ["Yes"]) == (1, 1, 1)
    assert text_scores(["I say No, no"], ["no "])[2] == 1
    assert text_scores(["Кошка спит"], ["кошка спит дома"])[0] == pytest.approx(4 / 5)
    mixed = text_scores(["a b", "", "nothing alike"], ["a b", "x", "y z"])
    assert mixed == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_of_several_right_outputs_the_nearest_counts() -> None:
    pytest.importorskip("rouge_score")
    rows = [("q", Output("the cat sat", ["a dog ran", "a dog ran off"])), ("r", "no")]
    found = score(0.0, rows, ["A dog ran", "yes"], complete=True)
    assert (found.exact_match, found.rouge_l, found.contains) == (0.5, 0.5, 0.5)
    assert score(0.0, rows, ["a dog", "yes"], complete=True).rouge_l == pytest.approx(0.4)
    assert may_be_right(" A dog r", rows[0][1])
    assert not may_be_right("a cat", rows[0][1])
    sample = Sample("q", rows[0][1], {"base": "a dog ran off", "generated": "a dog ran of"})
    assert [Report({}).is_right(sample, method) for method in sample.outputs] == [True, False]


class TwoStepsPerRow(Evaluator):
    """An evaluator that computes nothing: in a first step the losses, in a second the answers."""

    scored_form: ChatForm | None = None

    def evaluate(
        self,
        rows: Sequence[Row],
        adapter: Adapter | None = None,
        generate: bool = True,
        done: Callable[[int], None] = no_progress,
    ) -> tuple[Scores, list[str]]:
        for _ in range(2 * len(rows)):
            done(1)
        return Scores(1.0, None, 0.0, None, len(rows)), [prompt for prompt, _ in rows]

    def answer_seconds(self, rows: Sequence[Row], clock: Callable[[], float]) -> float:
        return float(len(rows))


def test_compare_counts_rows_within_each_method() -> None:
    steps: list[tuple[str, int, int]] = []
    methods = {"base": None, "again": None}
    compare(
        TwoStepsPerRow(),
        [Group([("a", "b"), ("c", "d")], methods)],
        row_progress=lambda *s: steps.append(s),
    )
    assert steps == [(method, n, 2) for method in methods for n in (0, 1, 1, 2)]


@pytest.mark.parametrize(
    ("seconds", "row_seconds", "scored"),
    [
        (0.0, 1.0, 1), (2.2, 2.0, 1), (4.2, 2.0, 1), (4.6, 2.0, 2), (13.0, 2.0, 6),
        (18.4, 2.0, 9), (23.0, 2.0, 11), (99.0, 2.0, 12),
        (0.0, 0.0, 8), (18.4, 0.0, 9), (23.0, 0.0, 11), (99.0, 0.0, 12),
    ],
)  # fmt: skip
def test_compare_scores_the_first_rows_if_time_is_short(
    seconds: float, row_seconds: float, scored: int
) -> None:
    """Each takes 2 s with both methods; 15% more must be left for the next one."""
    now = 0.0

    class OneSecondPerRow(TwoStepsPerRow):
        def evaluate(self, rows: Sequence[Row], *args: Any, **options: Any) -> Any:
            nonlocal now
            now += len(rows)
            loss = sum(int(prompt) for prompt, _ in rows) / len(rows)
            return Scores(loss, 1.0, 1.0, 1.0, len(rows), tokens=len(rows)), ["" for _ in rows]

    rows = [(f"{i}", "a" if i < 4 else "b") for i in range(12)]
    methods = {"base": None, "again": None}
    limit = Deadline(seconds, clock=lambda: now)
    group = Group(rows, methods)
    report = compare(
        OneSecondPerRow(), [group], samples=99, deadline=limit, row_seconds=row_seconds
    )
    assert [scores.rows for scores in report.scores.values()] == [scored, scored]
    assert report.scores["again"].loss == pytest.approx((scored - 1) / 2)
    assert len(report.samples) == scored
    assert report.most_frequent == max(min(scored, 4), scored - 4)
    assert now == 2 * scored


@pytest.mark.parametrize(("seconds", "generated"), [(15.9, False), (16.0, True), (None, True)])
def test_answers_are_generated_if_those_of_all_methods_to_the_first_rows_fit_into_the_time(
    seconds: float | None, generated: bool
) -> None:
    asked = set[bool]()

    class Recording(TwoStepsPerRow):
        def evaluate(
            self, rows: Any, adapter: Any = None, generate: bool = True, done: Any = no_progress
        ) -> Any:
            asked.add(generate)
            return super().evaluate(rows, adapter, generate, done)

    group = Group([(f"{i}", "a") for i in range(12)], {"base": None, "again": None})
    compare(Recording(), [group], deadline=Deadline(seconds, clock=lambda: 0.0))
    assert asked == {generated}


def test_scores_of_incomplete_answers_count_tokens_and_no_labels() -> None:
    rows = [("a", "awe, joy"), ("b", "none")]
    assert score(0.5, rows, ["a", "b"], complete=False, tokens=7) == Scores(
        loss=0.5, rouge_l=None, exact_match=0.0, contains=None, rows=2, label_f1=None, tokens=7
    )


def test_a_base_model_with_a_chat_template_is_scored_with_it() -> None:
    evaluator = TwoStepsPerRow()
    mode = ChatMode(between=("<assistant>", "<user>"))
    evaluator.scored_form = ChatForm("<user>{prompt}<assistant>", mode)
    report = compare(evaluator, [Group([("a", "b")], {"base": None}, [("c", "d")])])
    assert list(report.scores) == ["base", "1-shot", "base-chat"]
    answers = {
        "base": "a",
        "1-shot": "<user>c<assistant>d<user>a<assistant>",
        "base-chat": "<user>a<assistant>",
    }
    assert report.samples == (Sample("a", "b", answers),)


def test_answers_of_several_labels_are_judged_by_f1() -> None:
    rows = [("a", "awe, joy"), ("b", "none"), ("c", "joy, awe")]
    answers = ["Joy, awe", "fear", "joy"]

    class Answers(TwoStepsPerRow):
        def evaluate(self, rows: Sequence[Row], *_: Any) -> tuple[Scores, list[str]]:
            return score(1.0, rows, answers, complete=True), answers

    pytest.importorskip("rouge_score")
    report = compare(Answers(), [Group(rows, {"base": None})], form="several")
    assert report.to_dict()["scores"]["base"]["label_f1"] == pytest.approx(3 / 4)
    assert (report.scores["base"].right, report.scores["base"].contains) == (1, 1 / 3)  # any order
    assert [report.is_right(sample, "base") for sample in report.samples] == [True, False, False]
    assert report.most_frequent == 2
    assert report.table().splitlines()[-1].endswith("0.750 |")
    plain = compare(Answers(), [Group(rows, {"base": None})])
    assert (plain.most_frequent, plain.scores["base"].right) == (1, 0)
    assert "label_f1" not in plain.to_dict()["scores"]["base"]
    assert "F1" not in plain.table()
