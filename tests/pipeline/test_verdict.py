"""The verdict: its level and reason never contradict what was counted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.pipeline.verdict import verdict_on
from tests.cards.examples import checked

RIGHT = {"generated": 12, "base": 2, "base-chat": 3, "3-shot": 9, "most-frequent": 7}
SHOWN = {"base-chat": "chat template", "3-shot": "3 examples", "most-frequent": "frequent"}


@pytest.mark.parametrize(
    ("right", "level", "code", "other"),
    [
        ({}, "likely", "best", "3-shot"),
        ({"3-shot": 15}, "unlikely", "other-better", "3-shot"),
        ({"base-chat": 15}, "unlikely", "other-better", "base-chat"),
        ({"most-frequent": 15}, "unlikely", "other-better", "most-frequent"),
        ({"base": 15}, "unlikely", "other-better", "base"),
        ({"3-shot": 10}, "unsure", "equal", "3-shot"),
        ({"3-shot": 14}, "unsure", "equal", "3-shot"),
        (dict.fromkeys(RIGHT, 0), "unsure", "none-right", "base"),
        ({"base-chat": None, "3-shot": None}, "likely", "best", "most-frequent"),
        ({"most-frequent": None, "generated": 3}, "unlikely", "other-better", "3-shot"),
        ({"classifier": 15}, "unlikely", "classifier-better", "classifier"),
        ({"classifier": 14}, "likely", "classifier-equal", "classifier"),
        ({"classifier": 10}, "likely", "classifier-equal", "classifier"),
        ({"classifier": 9}, "likely", "best", "3-shot"),
        ({"generated": 9, "classifier": 11}, "unsure", "equal", "classifier"),
        ({"generated": 7, "classifier": 10}, "unlikely", "classifier-better", "classifier"),
        ({"generated": 2, "classifier": 13}, "unlikely", "classifier-better", "classifier"),
    ],
)
def test_right_answers_decide(right: Any, level: str, code: str, other: str) -> None:
    counted = {m: n for m, n in (RIGHT | right).items() if n is not None}
    found = verdict_on(checked(counted))
    assert (found.level, found.code) == (level, f"verdict.{code}")
    figures = found.figures
    assert (figures["rows"], figures["measure"], figures["margin"]) == (16, "right", 3)
    assert (figures["adapter"], figures["other"]) == (counted["generated"], other)
    assert figures["other_score"] == counted[other]
    assert level != "unlikely" or SHOWN.get(other, other) in found.title
    assert all(f" {n}" in found.counts for n in counted.values())
    assert found.counts in found.text
    assert found.counts not in found.beside_counts


def test_a_classifier_with_more_right_is_never_left_out_of_the_headline() -> None:
    found = verdict_on(checked({"generated": 7, "base": 1, "3-shot": 3, "classifier": 8}, rows=8))
    assert (found.level, found.code) == ("likely", "verdict.classifier-equal")
    assert "classifier" in found.title


@given(st.lists(st.integers(0, 16), min_size=6, max_size=6), st.booleans(), st.booleans())
def test_level_and_reason_agree_with_the_counts(
    numbers: list[int], untrained: bool, doubtful: bool
) -> None:
    counted = dict(zip([*RIGHT, "classifier"], numbers, strict=True))
    found = verdict_on(checked(counted), ["A doubt."] * doubtful, untrained=untrained)
    others = [n for method, n in counted.items() if method != "generated"]
    lead = counted["generated"] - max(others)
    assert (found.level == "unlikely") == (lead <= -3)
    if found.code == "verdict.best":
        assert lead >= 3
        assert not doubtful
    if "best" in found.title:
        assert lead >= 3
    assert (found.level == "likely") == (found.code in ("verdict.best", "verdict.classifier-equal"))


@pytest.mark.parametrize(
    ("measure", "scores", "right", "level"),
    [
        ("rouge_l", [0.6, 0.2, 0.3, 0.5], 0, "likely"),
        ("label_f1", [0.6, 0.2, 0.3, 0.4], 0, "likely"),
        ("label_f1", [0.6, 0.2, 0.3, 0.5], 8, "unsure"),
        ("rouge_l", [0.6, 0.2, 0.3, 0.62], 10, "unsure"),
        ("rouge_l", [0.5, 0.2, 0.3, 0.62], 16, "unlikely"),
        ("rouge_l", [0.0, 0.0, 0.0, 0.0], 10, "unsure"),
        ("rouge_l", [0.95, 0.92, 0.9, 0.93], 15, "likely"),
        ("rouge_l", [0.95, 0.92, 0.9, 0.93], 0, "unlikely"),
    ],
)
def test_right_answers_decide_only_where_the_scores_of_answers_are_about_equal(
    measure: str, scores: list[float], right: int, level: str
) -> None:
    counted = RIGHT | {"generated": right}
    graded = dict(zip(RIGHT, scores, strict=False))
    found = verdict_on(checked(counted, None, graded, measure=measure))
    assert found.level == level
    assert found.code != "verdict.none-right", "the base model has right ones"
    equal = abs(scores[0] - scores[3]) < (0.05 if measure == "rouge_l" else 3 / 16)
    assert (found.figures["measure"] == "right") == (equal and abs(right - 9) >= 3)
    assert all(f" {score:.2f}" in found.counts for score in scores)
