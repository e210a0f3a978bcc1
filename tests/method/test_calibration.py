"""Calibration against hand-worked values, scipy and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from hf_lorameta.method.calibration import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    answered,
    brier,
    calibration_error,
    confusion,
    coverage,
    fit_temperature,
    label_metrics,
    log_loss,
    log_probabilities,
    macro_f1,
    most_confused,
)

SCORES = arrays.arrays(
    float, st.tuples(st.integers(1, 20), st.integers(2, 5)), elements=st.floats(-30, 0, width=32)
)


def _some(seed: int, rows: int = 200, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, labels)) * 4
    chances = np.exp(log_softmax(scores / 3, axis=-1))
    right = np.array([rng.choice(labels, p=row) for row in chances])
    return scores, right


@given(SCORES, st.floats(0.5, 20))
def test_log_probabilities_are_those_of_scipy(scores: np.ndarray, temperature: float) -> None:
    found = log_probabilities(scores, temperature)
    assert np.allclose(found, log_softmax(scores / temperature, axis=-1))
    assert (found.argmax(-1) == scores.argmax(-1)).all() or len(set(scores.ravel())) > 0
    assert np.allclose(np.exp(found).sum(-1), 1)


@pytest.mark.parametrize("seed", range(5))
def test_the_temperature_has_the_least_loss_that_scipy_finds(seed: int) -> None:
    scores, right = _some(seed)

    def loss(temperature: float) -> float:
        return log_loss(log_probabilities(scores, temperature), right)

    best = minimize_scalar(loss, bounds=(LEAST_TEMPERATURE, MOST_TEMPERATURE), method="bounded")
    found = fit_temperature(scores, right)
    assert found == pytest.approx(best.x, rel=1e-3)
    assert found == pytest.approx(3, rel=0.5)  # that it was drawn with
    assert loss(found) <= loss(1.0)


@given(st.integers(1, 8))
def test_rows_that_are_all_right_or_all_wrong_give_a_bound(rows: int) -> None:
    scores, right = np.tile([9.0, 0.0], (rows, 1)), np.zeros(rows, int)
    assert fit_temperature(scores, right) == pytest.approx(LEAST_TEMPERATURE)
    assert fit_temperature(scores, right + 1) == pytest.approx(MOST_TEMPERATURE)


@given(SCORES, st.data())
def test_metrics_equal_loops(scores: np.ndarray, data: st.DataObject) -> None:
    rows, labels = scores.shape
    right = np.array(data.draw(st.lists(st.integers(0, labels - 1), min_size=rows, max_size=rows)))
    probability = np.exp(log_softmax(scores, axis=-1))
    loops = sum(
        (probability[r, c] - (right[r] == c)) ** 2 for r in range(rows) for c in range(labels)
    )
    assert brier(probability, right) == pytest.approx(loops / rows)
    answers = scores.argmax(-1)
    f1 = []
    for label in {*answers, *right}:
        hits = sum(a == label == b for a, b in zip(answers, right, strict=True))
        precision = hits / max(sum(answers == label), 1)
        recall = hits / max(sum(right == label), 1)
        f1.append(2 * precision * recall / (precision + recall) if hits else 0)
    assert macro_f1(answers, right) == pytest.approx(np.mean(f1))
    found = label_metrics(scores, right, 1.0)
    assert found.accuracy == pytest.approx(np.mean(answers == right))
    assert 0 <= found.calibration_error <= 1
    assert 0 <= found.coverage <= 1
    counts = confusion(answers, right, labels)
    assert counts.sum() == rows
    assert np.trace(counts) == (answers == right).sum()


def test_the_calibration_error_of_bins_of_equal_mass() -> None:
    confidence = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.55])
    correct = np.array([1, 1, 1, 0, 0, 1])
    bins = [abs(0.575 - 0.5), abs(0.75 - 0.5), abs(0.925 - 1)]
    assert calibration_error(confidence, correct, 3) == pytest.approx(np.mean(bins))
    assert calibration_error(confidence, correct, 1) == pytest.approx(abs(0.75 - 4 / 6))
    each = calibration_error(confidence, correct)  # more bins than rows
    assert each == pytest.approx(np.mean(abs(confidence - correct)))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=25))
def test_coverage_is_the_best_of_all_thresholds(rows: list[tuple[float, bool]]) -> None:
    confidence, correct = np.array([p for p, _ in rows]), np.array([c for _, c in rows])
    shares = [0.0]
    for sure in confidence:
        count, right = answered(confidence, correct, sure)
        if count - right <= 0.05 * count:
            shares.append(count / len(rows))
    assert coverage(confidence, correct) == max(shares)


def test_the_most_confused_labels_keep_their_order() -> None:
    counts = np.array([[5, 0, 0, 0], [0, 1, 3, 0], [0, 2, 1, 0], [1, 0, 0, 4]])
    assert most_confused(counts, 2) == [1, 2]
    assert most_confused(counts, 9) == [0, 1, 2, 3]
