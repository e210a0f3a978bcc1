"""The model of a loss from a few points, against differences and logistic regression."""

import numpy as np
import pytest
from scipy.optimize import minimize

from hf_lorameta.refine.surrogate import SurrogateLoss, log_odds
from hf_lorameta.types import Array


def test_the_model_of_the_loss_meets_its_points_and_its_gradient_is_its_own() -> None:
    rng = np.random.default_rng(1)
    model = SurrogateLoss([3, 1, 2], bend=0.7)
    points = [rng.standard_normal(4) for _ in range(3)]
    losses = [rng.uniform(0.1, 3, 3) for _ in points]
    for u, found in zip(points, losses, strict=True):
        model.add(u, *log_odds(found, rng.standard_normal((3, 4))))
    for u, found in zip(points, losses, strict=True):
        expected = found @ np.array([3, 1, 2]) / 6
        assert model.at(u)[0] == pytest.approx(expected, rel=1e-3)
    u, step = rng.standard_normal(4), 1e-6
    for i, slope in enumerate(model.at(u)[1]):
        ends = [model.at(u + sign * step * np.eye(4)[i])[0] for sign in (1, -1)]
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


def logistic(x: Array, stiffness: float) -> Array:
    """Newton's method on the mean of log(1 + exp(-x u)) + stiffness |u|², the textbook's."""
    u = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(x @ u))
        slope = -x.T @ p / len(x) + 2 * stiffness * u
        bend = (x.T * (p * (1 - p))) @ x / len(x) + 2 * stiffness * np.eye(len(u))
        u = u - np.linalg.solve(bend, slope)
    return u


@pytest.mark.parametrize("stiffness", [0.01, 0.3])
def test_one_point_and_straight_log_odds_are_logistic_regression(stiffness: float) -> None:
    x = np.random.default_rng(2).standard_normal((30, 5))
    model = SurrogateLoss([1] * 30, bend=0.0)
    model.add(np.zeros(5), np.zeros(30), x)
    np.testing.assert_allclose(model.minimum(stiffness), logistic(x, stiffness), atol=1e-4)
    some = np.arange(30) < 20
    expected = logistic(x[some], stiffness * 1.5)  # 20 of 30 texts keep their share of the whole
    np.testing.assert_allclose(model.minimum(stiffness, some), expected, atol=1e-4)


def test_the_bend_is_found_from_how_far_log_odds_fell_short_of_the_line() -> None:
    model = SurrogateLoss([1, 2], bend=2.0)
    odds, slopes = np.zeros(2), np.array([[1.0, 0.0], [0.0, 1.0]])
    model.add(np.zeros(2), odds, slopes)
    u = np.array([0.6, 0.8])
    model.add(u, slopes @ u - 1.3, slopes)
    assert model.bend == pytest.approx(1.3, rel=2e-3)
    model.add(-u, 1e9 - slopes @ u, slopes)
    assert model.bend == pytest.approx(0.325, rel=2e-3)  # one point is not trusted further
    for _ in range(3):
        model.add(2 * u, -1e9 + slopes @ u, slopes)
    assert model.bend == 2.0  # as at first, at most


def test_a_point_upon_another_says_nothing_of_the_bend() -> None:
    model = SurrogateLoss([1, 1], bend=2.0)
    model.add(np.zeros(2), np.zeros(2), np.eye(2))
    model.add(np.full(2, 1e-5), np.full(2, 1e-5), np.eye(2))
    assert model.bend == pytest.approx(2.0, rel=1e-3)


def test_a_bent_model_meets_the_function_it_is_of() -> None:
    x = np.random.default_rng(4).standard_normal((6, 3))
    model = SurrogateLoss([1] * 6, bend=0.8)
    model.add(np.zeros(3), np.zeros(6), x)
    u = np.array([0.3, -0.2, 0.5])
    expected = np.logaddexp(0, -(x @ u - 0.8 * u @ u)).mean()
    assert model.at(u)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("texts", [None, np.array([True, True, False, True])])
def test_the_minimum_in_the_span_of_what_is_known_is_that_of_the_whole_space(
    texts: np.ndarray | None,
) -> None:
    rng = np.random.default_rng(5)
    model = SurrogateLoss([1, 2, 3, 4], bend=0.5)
    for u in (np.zeros(300), 0.1 * rng.standard_normal(300)):
        model.add(u, rng.standard_normal(4), 0.1 * rng.standard_normal((4, 300)))

    def stiff(u: Array) -> tuple[float, Array]:
        loss, slope = model.at(u, texts)
        return loss + 0.01 * float(u @ u), slope + 0.02 * u

    found = model.minimum(0.01, texts)
    whole = minimize(stiff, np.zeros(300), jac=True, options={"gtol": 1e-9})
    assert stiff(found)[0] == pytest.approx(whole.fun, rel=1e-6)
    np.testing.assert_allclose(found, whole.x, atol=1e-3)
