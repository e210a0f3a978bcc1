"""The model of a loss from a few points, against differences and logistic regression."""

import numpy as np
import pytest

from hf_lorameta.loss_model import Array, LossModel, log_odds


def test_the_model_of_the_loss_meets_its_points_and_its_gradient_is_its_own() -> None:
    rng = np.random.default_rng(1)
    model = LossModel([3, 1, 2], [0, 1, 2])
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
    model = LossModel([1] * 30, [i % 5 for i in range(30)])
    model.add(np.zeros(5), np.zeros(30), x)
    np.testing.assert_allclose(model.minimum(stiffness), logistic(x, stiffness), atol=1e-4)
    some = np.arange(30) < 20
    expected = logistic(x[some], stiffness * 1.5)  # 20 of 30 texts keep their share of the whole
    np.testing.assert_allclose(model.minimum(stiffness, some), expected, atol=1e-4)


def test_stiffness_is_chosen_on_texts_that_were_held_out() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((40, 3)) + np.eye(3)[0]
    model = LossModel([1] * 40, [i % 4 for i in range(40)])
    model.add(np.zeros(3), np.zeros(40), x)
    found = {}
    for stiffness in (0.02, 5.0):
        total = 0.0
        for fold in range(4):
            out = np.arange(40) % 4 == fold
            u = logistic(x[~out], stiffness * 40 / 30)
            total += np.logaddexp(0, -x[out] @ u).sum() / 40
        found[stiffness] = total
    best = min(found, key=found.__getitem__)
    chosen, loss = model.choose([0.02, 5.0])
    assert chosen == best
    assert loss == pytest.approx(found[best], abs=1e-4)


def test_where_held_out_texts_only_lose_nothing_is_to_be_moved() -> None:
    x = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    model = LossModel([1] * 4, [0, 1, 0, 1])  # each fold says the opposite of the other
    model.add(np.zeros(1), np.zeros(4), x)
    assert model.choose([0.01, 1.0]) == (np.inf, pytest.approx(np.log(2)))
