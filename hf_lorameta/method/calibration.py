"""Probabilities of labels, calibrated on rows that were not seen, and what they are worth.

A label's score is the log probability that a model gives it. Its probability is
``softmax(scores / T)`` with one *temperature* T, which is fitted on rows whose label is known by
log loss (Guo et al., arXiv 1706.04599). It changes no answer.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.types import Array

Indices = NDArray[np.intp]
"""Numbers of labels."""

BINS = 15
"""Bins of `calibration_error`."""
ERROR = 0.05
"""Share of wrong answers at which `coverage` is stated."""
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1.0, 20.0
"""Bounds of a temperature. The lower one keeps the probabilities of a few rows that are all right
from becoming one."""
_ROUNDS = 60


def log_probabilities(scores: Array, temperature: float = 1.0) -> Array:
    """Return the log probabilities of labels, (R, L), from their scores (R, L).

    Example:
        >>> np.exp(log_probabilities(np.log([[0.1, 0.3]]))).round(3).tolist()
        [[0.25, 0.75]]
    """
    scaled = scores / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    found: Array = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    return found


def fit_temperature(scores: Array, right: Indices) -> float:
    """Return the temperature with the least log loss, within bounds.

    The loss is convex in 1/T; its derivative, the mean of E[score] − score of the right label, has
    its zero found by bisection.

    Args:
        scores: (R, L); at least one row.
        right: the right label of each row, (R,).

    Example:
        >>> scores = np.array([[4.0, 0.0]] * 4)
        >>> temperature = fit_temperature(scores, np.array([0, 0, 0, 1]))
        >>> np.exp(log_probabilities(scores, temperature))[0].round(3).tolist()
        [0.75, 0.25]
    """
    of_right = np.take_along_axis(scores, right[:, None], 1)[:, 0]
    low, high = 1 / MOST_TEMPERATURE, 1 / LEAST_TEMPERATURE
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        expected = (np.exp(log_probabilities(scores, 1 / middle)) * scores).sum(-1)
        if (expected - of_right).mean() < 0:
            low = middle
        else:
            high = middle
    return float(2 / (low + high))


def log_loss(log_probability: Array, right: Indices) -> float:
    """Return the mean of −log p of the right labels, in nats.

    Args:
        log_probability: (R, L).
        right: (R,).

    Example:
        >>> round(log_loss(np.log([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 0])), 3)
        1.04
    """
    return float(-np.take_along_axis(log_probability, right[:, None], 1).mean())


def brier(probability: Array, right: Indices) -> float:
    """Return the mean over rows of the squared distance to the right label's indicator, 0 to 2.

    Brier (1950), summed over labels.

    Example:
        >>> brier(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 1]))
        0.25
    """
    indicator = np.eye(probability.shape[1])[right]
    return float(((probability - indicator) ** 2).sum(-1).mean())


def calibration_error(confidence: Array, correct: NDArray[Any], bins: int = BINS) -> float:
    """Return the expected calibration error, 0 to 1, in bins with the same number of rows.

    The mean over rows of |mean confidence − share of right answers| of their bin (Nixon et al.,
    arXiv 1904.01685). Few rows in a bin make it large for perfect probabilities as well.

    Args:
        confidence: probability of each answer, (R,).
        correct: whether it is right, (R,).
        bins: their number, at most; those of fewer rows than bins have one row.

    Example:
        >>> round(calibration_error(np.array([0.9, 0.7, 0.6, 0.6]), np.array([1, 1, 0, 1]), 2), 3)
        0.15
    """
    order = np.argsort(confidence, kind="stable")
    gaps = np.asarray(confidence, float)[order] - np.asarray(correct, float)[order]
    parts = np.array_split(gaps, min(bins, len(gaps)))
    return float(sum(abs(part.sum()) for part in parts) / len(gaps))


def coverage(confidence: Array, correct: NDArray[Any], error: float = ERROR) -> float:
    """Return the largest share of rows whose answers are right but for this share of them.

    The rows with the highest confidence are answered; rows with the same confidence together.

    Example:
        >>> coverage(np.array([0.9, 0.8, 0.8, 0.3]), np.array([1, 1, 1, 0]))
        0.75
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    sorted_confidence = np.asarray(confidence)[order]
    answered = np.arange(1, len(order) + 1)
    wrong = np.cumsum(~np.asarray(correct, bool)[order])
    last_of_equal = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)
    fitting = answered[last_of_equal & (wrong <= error * answered)]
    return float(fitting.max(initial=0) / len(order))


def macro_f1(answers: Indices, right: Indices) -> float:
    """Return the mean F1 of the labels that are the right one, or the answer, of a row.

    Example:
        >>> round(macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])), 3)
        0.733
    """
    scores = []
    for label in np.union1d(answers, right):
        both = np.sum((answers == label) & (right == label))
        scores.append(2 * both / (np.sum(answers == label) + np.sum(right == label)))
    return float(np.mean(scores))


def confusion(answers: Indices, right: Indices, labels: int) -> Indices:
    """Return how many rows of each label (row) were answered with each label (column), (L, L)."""
    counts = np.zeros((labels, labels), int)
    np.add.at(counts, (right, answers), 1)
    return counts


def most_confused(counts: Indices, most: int) -> list[int]:
    """Return the labels of a confusion matrix that have the most wrong answers, in their order.

    Example:
        >>> most_confused(np.array([[2, 1, 0], [0, 3, 0], [0, 0, 4]]), 2)
        [0, 1]
    """
    wrong = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
    order = sorted(range(len(counts)), key=lambda label: (-wrong[label], label))
    return sorted(order[:most])


class LabelMetrics(NamedTuple):
    """What answers and their probabilities are worth, on rows whose label is known.

    Attributes:
        rows: number of rows.
        accuracy: share of right answers.
        macro_f1: see `macro_f1`.
        log_loss: in nats.
        brier: see `brier`.
        calibration_error: see `calibration_error`.
        coverage: see `coverage`.
    """

    rows: int
    accuracy: float
    macro_f1: float
    log_loss: float
    brier: float
    calibration_error: float
    coverage: float


def label_metrics(scores: Array, right: Indices, temperature: float) -> LabelMetrics:
    """Return the metrics of the likeliest labels.

    Args:
        scores: (R, L).
        right: the right label of each row, (R,).
        temperature: see `fit_temperature`.

    Example:
        >>> label_metrics(np.log([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 1]), 1.0).accuracy
        1.0
    """
    logs = log_probabilities(scores, temperature)
    answers, confidence = scores.argmax(-1), np.exp(logs.max(-1))
    correct = answers == right
    return LabelMetrics(
        rows=len(right),
        accuracy=float(correct.mean()),
        macro_f1=macro_f1(answers, right),
        log_loss=log_loss(logs, right),
        brier=brier(np.exp(logs), right),
        calibration_error=calibration_error(confidence, correct),
        coverage=coverage(confidence, correct),
    )


def answered(confidence: Array, correct: NDArray[Any], sure: float) -> tuple[int, int]:
    """Return how many rows are answered with at least this probability, and how many right.

    Example:
        >>> answered(np.array([0.99, 0.96, 0.5]), np.array([True, False, True]), 0.95)
        (2, 1)
    """
    chosen = np.asarray(confidence) >= sure
    return int(chosen.sum()), int(np.asarray(correct, bool)[chosen].sum())
