"""The surrogate loss against finite differences and logistic regression."""

import numpy as np
import pytest
from scipy.optimize import minimize

from hf_lorameta.refine.surrogate import SurrogateLoss, to_log_odds
from hf_lorameta.types import Array


def test_the_surrogate_interpolates_its_points_and_its_gradient_is_right() -> None:
    rng = np.random.default_rng(1)
    surrogate = SurrogateLoss([3, 1, 2], curvature=0.7)
    points = [rng.standard_normal(4) for _ in range(3)]
    losses = [rng.uniform(0.1, 3, 3) for _ in points]
    for u, found in zip(points, losses, strict=True):
        surrogate.add(u, *to_log_odds(found, rng.standard_normal((3, 4))))
    for u, found in zip(points, losses, strict=True):
        expected = found @ np.array([3, 1, 2]) / 6
        assert surrogate.evaluate(u)[0] == pytest.approx(expected, rel=1e-3)
    u, step = rng.standard_normal(4), 1e-6
    for i, slope in enumerate(surrogate.evaluate(u)[1]):
        ends = [surrogate.evaluate(u + sign * step * np.eye(4)[i])[0] for sign in (1, -1)]
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


def logistic(x: Array, penalty: float) -> Array:
    """Newton's method on the mean of log(1 + exp(-x u)) + penalty |u|²."""
    u = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(x @ u))
        slope = -x.T @ p / len(x) + 2 * penalty * u
        hessian = (x.T * (p * (1 - p))) @ x / len(x) + 2 * penalty * np.eye(len(u))
        u = u - np.linalg.solve(hessian, slope)
    return u


@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_without_curvature_one_point_gives_logistic_regression(penalty: float) -> None:
    x = np.random.default_rng(2).standard_normal((30, 5))
    surrogate = SurrogateLoss([1] * 30, curvature=0.0)
    surrogate.add(np.zeros(5), np.zeros(30), x)
    np.testing.assert_allclose(surrogate.minimum(penalty), logistic(x, penalty), atol=1e-4)
    some = np.arange(30) < 20
    expected = logistic(x[some], penalty * 1.5)  # 20 of 30 texts keep their share of all
    np.testing.assert_allclose(surrogate.minimum(penalty, some), expected, atol=1e-4)


def test_the_curvature_is_estimated_from_the_shortfall_of_log_odds() -> None:
    surrogate = SurrogateLoss([1, 2], curvature=2.0)
    odds, slopes = np.zeros(2), np.array([[1.0, 0.0], [0.0, 1.0]])
    surrogate.add(np.zeros(2), odds, slopes)
    u = np.array([0.6, 0.8])
    surrogate.add(u, slopes @ u - 1.3, slopes)
    assert surrogate.curvature == pytest.approx(1.3, rel=2e-3)
    surrogate.add(-u, 1e9 - slopes @ u, slopes)
    assert surrogate.curvature == pytest.approx(0.325, rel=2e-3)  # changes by a factor of 4 at most
    for _ in range(3):
        surrogate.add(2 * u, -1e9 + slopes @ u, slopes)
    assert surrogate.curvature == 2.0  # never above the initial one


def test_a_point_close_to_another_leaves_the_curvature_unchanged() -> None:
    surrogate = SurrogateLoss([1, 1], curvature=2.0)
    surrogate.add(np.zeros(2), np.zeros(2), np.eye(2))
    surrogate.add(np.full(2, 1e-5), np.full(2, 1e-5), np.eye(2))
    assert surrogate.curvature == pytest.approx(2.0, rel=1e-3)


def test_curvature_lowers_log_odds_by_the_squared_step() -> None:
    x = np.random.default_rng(4).standard_normal((6, 3))
    surrogate = SurrogateLoss([1] * 6, curvature=0.8)
    surrogate.add(np.zeros(3), np.zeros(6), x)
    u = np.array([0.3, -0.2, 0.5])
    expected = np.logaddexp(0, -(x @ u - 0.8 * u @ u)).mean()
    assert surrogate.evaluate(u)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("texts", [None, np.array([True, True, False, True])])
def test_the_minimum_in_the_span_of_points_and_slopes_is_the_global_one(
    texts: np.ndarray | None,
) -> None:
    rng = np.random.default_rng(5)
    surrogate = SurrogateLoss([1, 2, 3, 4], curvature=0.5)
    for u in (np.zeros(300), 0.1 * rng.standard_normal(300)):
        surrogate.add(u, rng.standard_normal(4), 0.1 * rng.standard_normal((4, 300)))

    def objective(u: Array) -> tuple[float, Array]:
        loss, slope = surrogate.evaluate(u, texts)
        return loss + 0.01 * float(u @ u), slope + 0.02 * u

    found = surrogate.minimum(0.01, texts)
    whole = minimize(objective, np.zeros(300), jac=True, options={"gtol": 1e-9})
    assert objective(found)[0] == pytest.approx(whole.fun, rel=1e-6)
    np.testing.assert_allclose(found, whole.x, atol=1e-3)
