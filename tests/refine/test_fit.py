"""The fit of coefficients on models with known optima."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.refine.fit import (
    MODULE_SCALE_LARGE,
    MODULE_SCALE_SMALL,
    STEPS,
    Fit,
    is_significant,
    refine,
    select_module_scale,
)
from tests.refine.models import ROWS, TRUTH, Array, Logistic, Modular


@pytest.fixture
def any_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept every gain on held-out rows: 16 noisy labels leave few of them significant."""
    monkeypatch.setattr(
        "hf_lorameta.refine.fit.is_significant", lambda gains, sizes: gains.sum() > 0
    )


@pytest.mark.usefixtures("any_gain")
def test_a_fit_approaches_the_best_coefficients_even_negative_ones() -> None:
    model = Logistic(TRUTH)
    best = minimize(model.at, np.zeros(4), method="Nelder-Mead", options={"maxiter": 4000})
    start = np.full(4, 0.25)
    c, report = refine(start, model, ROWS, model)
    assert report.start == pytest.approx(model.at(start))
    assert report.end == pytest.approx(model.at(c.shared))
    assert report.end - best.fun < 0.5 * (report.start - best.fun)  # the penalty limits it
    assert c.shared[1] < 0
    assert best.fun < report.held_out < report.start
    assert (report.rows, report.base) == (16, 10.0)
    assert report.history[0] == report.start


def test_a_fit_is_deterministic() -> None:
    results = [refine(np.full(4, 0.25), m, ROWS, m) for m in [Logistic(TRUTH) for _ in "ab"]]
    assert results[0][0].shared.tolist() == results[1][0].shared.tolist()
    assert results[0][1] == results[1][1]


def test_the_start_is_returned_if_folds_contradict_each_other() -> None:
    model = Logistic([0.0])
    model.x = np.array([[1.0], [1.0], [-1.0], [-1.0]] * 4)  # half of the folds against the others
    c, report = refine(np.zeros(1), model, ROWS, model)
    assert c.shared.tolist() == [0.0]
    assert report.end == report.start == report.held_out == pytest.approx(np.log(2))


def test_the_start_is_returned_if_only_the_fitted_rows_improve() -> None:
    model = Logistic(TRUTH)
    model.x = np.random.default_rng(1).standard_normal((16, 6))  # labels are noise
    start = np.full(6, 0.01)
    c, report = refine(start, model, ROWS, model)
    assert min(report.history) < report.start - 0.01
    assert c.shared.tolist() == start.tolist()
    assert report.end == report.held_out == report.start


@pytest.mark.usefixtures("any_gain")
@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.25, 0.0])
def test_the_step_is_shortened_until_cross_validation_supports_it(
    fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, start = Logistic(TRUTH), np.full(4, 0.01)
    full, _ = refine(start, model, ROWS, model)
    fractions = iter([1.0, 0.5, 0.25])
    held_out_losses = Fit._held_out_losses

    def losses(fit: Fit, points: Any) -> Array:
        penalty = 9.0 if next(fractions) > fraction else 0.0
        return held_out_losses(fit, points) + penalty

    monkeypatch.setattr(Fit, "_held_out_losses", losses)
    c, report = refine(start, model, ROWS, model)
    np.testing.assert_allclose(c.shared, start + fraction * (full.shared - start))
    assert report.end == pytest.approx(model.at(c.shared))
    assert report.held_out <= report.start


@pytest.mark.usefixtures("any_gain")
def test_the_held_out_loss_is_that_of_fits_without_the_fold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hf_lorameta.refine.fit.CONVERGENCE_TOL", -1.0)
    monkeypatch.setattr("hf_lorameta.refine.fit.PENALTY", 0.1)
    model = Logistic(TRUTH, curvature=0.0)
    c, report = refine(np.zeros(4), model, ROWS, model, steps=12)
    tokens = model.encode(ROWS)
    sizes = np.array([len(row.output) for row in tokens])
    gram = model.grams()[0] / np.diag(model.grams()[0]).mean()
    values, vectors = np.linalg.eigh(gram)
    whitened = model.x @ (vectors / np.sqrt(values + 0.1)) @ vectors.T

    def fitted(rows: NDArray[np.integer]) -> Array:
        def objective(u: Array) -> float:
            losses = np.logaddexp(0, -whitened[rows] @ u)
            return float(losses @ sizes[rows] / sizes.sum() + 0.1 * u @ u)

        return np.asarray(minimize(objective, np.zeros(4)).x)

    every, total = np.arange(16), 0.0
    for fold in range(4):
        held_out = every[every % 4 == fold]
        u = fitted(every[every % 4 != fold])
        total += np.logaddexp(0, -whitened[held_out] @ u) @ sizes[held_out]
    assert report.held_out == pytest.approx(total / sizes.sum(), abs=2e-3)
    expected = np.logaddexp(0, -whitened @ fitted(every)) @ sizes / sizes.sum()
    assert report.end == pytest.approx(expected, abs=2e-3)
    assert model.at(c.shared) == pytest.approx(report.end)


def test_modules_get_different_coefficients_if_rows_agree_on_them() -> None:
    model = Modular([3.0, -3.0, 0.5, -3.0, 3.0, 0.5])  # opposite signs in the two modules
    start = np.zeros(3)
    c, report = refine(start, model, ROWS, model)
    assert c.per_module is not None
    assert report.by_module
    assert (np.sign(c.per_module[:, :2]) == [[1, -1], [-1, 1]]).all()
    assert model.at_modules(c) == pytest.approx(report.end)
    shared = minimize(lambda c: model.at_modules(Coefficients(c)), start, method="Nelder-Mead")
    assert report.held_out < shared.fun


def test_modules_share_coefficients_if_cross_validation_favors_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Modular([1.0] * 16)
    noise = np.random.default_rng(0).standard_normal((16, 8))  # cancels if modules share
    model.x = np.hstack([noise, -noise])
    model.x[:, [0, 8]] += 0.3
    c, report = refine(np.zeros(8), model, ROWS, model)
    assert c.per_module is None
    assert not report.by_module
    monkeypatch.setattr("hf_lorameta.refine.fit.select_module_scale", lambda *losses: 4.0)
    c, _ = refine(np.zeros(8), model, ROWS, model)
    assert c.per_module is not None
    assert c.per_module.shape == (2, 8)


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [
        ((4.0, 3.0, 2.9, 2.9, 2.81), MODULE_SCALE_SMALL),  # less than all before
        ((4.0, 3.0, 2.9, 2.9, 2.79), MODULE_SCALE_LARGE),
        # below the minimum, and the bank has improved much
        ((9.0, 3.0, 2.9, 2.9, 2.51), MODULE_SCALE_SMALL),
        ((9.0, 3.0, 2.9, 2.9, 2.49), MODULE_SCALE_LARGE),
        ((4.0, 3.0, 2.0, 2.0, 1.61), MODULE_SCALE_SMALL),
        ((4.0, 3.0, 2.0, 2.0, 1.59), MODULE_SCALE_LARGE),  # above the minimum
        ((4.0, 3.0, 2.9, 2.9, 2.89), MODULE_SCALE_SMALL),  # below the tolerance
        ((9.0, 3.0, 3.5, 3.5, 3.05), MODULE_SCALE_SMALL),  # no gain
        ((4.0, 3.0, 2.0, 2.5, 2.0), 0.0),  # better than small, not better than shared
        ((4.0, 3.0, 2.0, 2.01, 2.5), MODULE_SCALE_SMALL),
        ((4.0, *(np.nan,) * 4), 0.0),
    ],
)
def test_the_module_scale_is_selected_by_held_out_losses(
    held_out: tuple[float, ...], expected: float
) -> None:
    assert select_module_scale(*held_out) == expected


def test_a_step_is_shortened_if_its_gain_is_within_the_standard_error(
    request: pytest.FixtureRequest,
) -> None:
    start, model = np.full(4, 0.25), Logistic(TRUTH)
    careful, report = refine(start, model, ROWS, model)
    assert report.held_out < report.start
    request.getfixturevalue("any_gain")
    bold, _ = refine(start, model, ROWS, model)
    length = np.linalg.norm(careful.shared - start) / np.linalg.norm(bold.shared - start)
    assert min(abs(length - 0.5), abs(length - 0.25)) < 1e-9


def test_the_standard_error_is_that_of_repeated_samples() -> None:
    """Gains of rows of different sizes: half of the samples exceed it if it is the true gain."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 4, 64)
    error = np.sqrt((sizes**2).sum()) / sizes.sum()  # of gains with deviation 1 per token
    gains = (error + rng.standard_normal((4000, 64))) * sizes
    accepted = np.mean([is_significant(row, sizes.tolist()) for row in gains])
    assert accepted == pytest.approx(0.5, abs=0.03)  # a true gain of one standard error
    none = rng.standard_normal((4000, 64)) * sizes
    assert np.mean([is_significant(row, sizes.tolist()) for row in none]) == pytest.approx(
        0.159, abs=0.02
    )


@pytest.mark.parametrize("size", [2, 40])  # fewer coordinates than rows, and more
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_start_is_returned_if_slopes_are_not_finite(size: int) -> None:
    class Broken(Modular):
        def gradient(self, tokens: Any, weighted_sum: Any) -> Any:
            losses, slopes = super().gradient(tokens, weighted_sum)
            return losses, np.nan * slopes

    model = Broken([1.0] * 2 * size)
    c, report = refine(np.zeros(size), model, ROWS, model)
    assert c.shared.tolist() == [0.0] * size
    assert np.isfinite(report.history).all()
    assert not report.by_module


def test_a_fit_stops_when_little_improvement_is_predicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int, float]] = []
    model = Logistic(TRUTH)
    _, report = refine(np.zeros(4), model, ROWS, model, progress=lambda *step: seen.append(step))
    assert 1 < report.steps < STEPS
    assert len(report.history) == report.steps + 1
    assert seen == [(i, STEPS + 1, loss) for i, loss in enumerate(report.history, 1)]
    monkeypatch.setattr("hf_lorameta.refine.fit.CONVERGENCE_TOL", 10.0)
    _, short = refine(np.zeros(4), model, ROWS, model)
    assert short.steps == 1
    assert short.history == pytest.approx(report.history[:2])


def test_coefficients_worse_than_the_base_model_are_halved() -> None:
    start = Logistic(TRUTH).at(np.full(4, -0.5))
    model = Logistic(TRUTH, base=0.75)
    c, report = refine(np.full(4, -0.5), model, ROWS, model, steps=0)
    assert start > 0.75 >= report.end
    assert c.shared.tolist() in [[-0.25] * 4, [-0.125] * 4, [-0.0625] * 4]


def test_too_few_rows_are_refused() -> None:
    model = Logistic(TRUTH)
    with pytest.raises(EmptyDatasetError, match="3 rows to refine on"):
        refine(np.zeros(4), model, ROWS[:3], model)
