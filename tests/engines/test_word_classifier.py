"""Labels that a classifier on words predicts."""

import math
import random
from collections import Counter
from functools import partial

import numpy as np
import pytest
from scipy.optimize import minimize

from hf_lorameta.engines.word_classifier import predicted_labels
from hf_lorameta.types import Array, Row


def drawn_texts(count: int, draw: random.Random, words: int = 60) -> list[str]:
    """Texts of 1 to 9 words, a few of them frequent."""
    weights = [1 / (i + 1) for i in range(words)]
    return [
        " ".join(f"w{i}" for i in draw.choices(range(words), weights, k=draw.randint(1, 9)))
        for _ in range(count)
    ]


def _loss(features: Array, target: Array, weights: Array) -> tuple[float, Array]:
    error = features @ weights - target
    loss = float(error @ error + 0.3 * weights @ weights)
    return loss, 2 * features.T @ error + 0.6 * weights


def expected_labels(rows: list[Row], inputs: list[str]) -> list[str]:
    """Minimize |XW + b - Y|² + 0.3 |W|² with scipy; b is the share of each label, X is TF-IDF."""
    counts = [Counter(text.split()) for text, _ in rows]
    vocabulary = sorted({word for of in counts for word in of})
    found = {word: sum(word in of for of in counts) for word in vocabulary}

    def features(text: str) -> list[float]:
        of = Counter(text.split())
        values = [math.log(1 + of[w]) * math.log(len(rows) / found[w]) for w in vocabulary]
        length = math.hypot(*values)
        return [value / length if length else 0.0 for value in values]

    known, asked = (np.array(list(map(features, t))) for t in ([t for t, _ in rows], inputs))
    labels = sorted({output for _, output in rows})
    scores = []
    for label in labels:
        target = np.array([output == label for _, output in rows], dtype=float)
        loss = partial(_loss, known, target - target.mean())
        best = minimize(loss, np.zeros(len(vocabulary)), jac=True, options={"gtol": 1e-9})
        scores.append(asked @ best.x + target.mean())
    return [labels[i] for i in np.argmax(scores, axis=0)]


@pytest.mark.parametrize("size", [12, 40, 90])
def test_labels_are_those_of_ridge_regression_minimized_by_scipy(size: int) -> None:
    draw = random.Random(size)
    rows = [(text, draw.choice("aabcd")) for text in drawn_texts(size, draw)]
    inputs = drawn_texts(400, draw)
    expected = expected_labels(rows, inputs)
    assert len(set(expected)) > 2
    assert predicted_labels(rows, inputs) == expected


def test_words_of_an_instruction_change_nothing() -> None:
    draw = random.Random(0)
    rows = [(text, draw.choice("abc")) for text in drawn_texts(30, draw)]
    inputs = drawn_texts(200, draw)
    prompt = "Sort the text: c c c a.\nText: {}\nLabel:"
    within = [(prompt.format(text), output) for text, output in rows]
    assert predicted_labels(within, [prompt.format(text) for text in inputs]) == predicted_labels(
        rows, inputs
    )


def test_without_known_words_the_most_frequent_label_is_predicted() -> None:
    rows = [("red", "a"), ("blue", "b"), ("sky", "b"), ("rose", "c")]
    assert predicted_labels(rows, ["", "green", " \n", "RED!"]) == ["b", "b", "b", "a"]


@pytest.mark.parametrize(
    "rows",
    [
        [("only row", "a")],
        [("same", "a"), ("same", "a")],
        [("", "a"), ("", "a"), ("", "b")],
        [("?!", "a"), ("\ud800", "a"), ("…", "b")],
        [("same", "a"), ("same", "a"), ("same", "b")],
    ],
)
def test_rows_whose_words_say_nothing_give_the_most_frequent_label(rows: list[Row]) -> None:
    assert predicted_labels(rows, ["same", "", "other"]) == ["a"] * 3


def test_no_inputs_have_no_labels() -> None:
    assert predicted_labels([("a", "b"), ("c", "d")], []) == []


@pytest.mark.parametrize(
    ("rows", "text", "label"),
    [
        ([("今天天气很好", "weather"), ("股票价格上涨", "money")], "明天的天气", "weather"),
        ([("今天天气很好", "weather"), ("股票价格上涨", "money")], "价格", "money"),
        ([("วันนี้อากาศร้อนมาก", "weather"), ("ราคาหุ้นขึ้นแล้ว", "money")], "อากาศเย็น", "weather"),
        ([("मौसम अच्छा है।", "weather"), ("शेयर महँगा है।", "money")], "महँगा", "money"),
        ([("ПОГОДА хорошая", "weather"), ("цена акций", "money")], "погода!", "weather"),
        ([("雨", "weather"), ("金", "money")], "金", "money"),
    ],
)
def test_words_are_found_in_many_scripts(rows: list[Row], text: str, label: str) -> None:
    for order in (rows, rows[::-1]):  # of two as frequent labels, the first is the default
        assert predicted_labels(order, [text]) == [label]


def test_marks_do_not_divide_words() -> None:
    # divided at its vowel signs, की would be क, which is in की and के
    rows = [("की", "a"), ("के", "b")]
    assert predicted_labels(rows, ["की", "के", "क"]) == ["a", "b", "a"]


def test_rare_words_are_left_out_of_long_datasets() -> None:
    rows = [(f"{'good' if i % 2 else 'bad'} only{i}a only{i}b", f"{i % 2}") for i in range(1500)]
    # the words after the 2,048 first in most rows are unknown
    assert predicted_labels(rows, ["good", "bad", "only1a", "only1499b"]) == ["1", "0", "1", "0"]
