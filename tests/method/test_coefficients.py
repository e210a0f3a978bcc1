"""Coefficient rules: known values, the simplex, equivariance, errors; coefficients as a value."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import zscore

from hf_lorameta.method.coefficients import (
    KERNEL_WIDTH,
    RIDGE,
    RuleInputs,
    apply_rule,
    attentional,
    effective_number,
    kernel,
    neural,
    normalized,
    softmin,
    standardize,
    top_k,
)
from hf_lorameta.method.neural import NeuralModel
from hf_lorameta.method.registries import COEFFICIENT_RULES
from tests.support.codes import raises_code

Array = NDArray[np.float64]
RULES = sorted(set(COEFFICIENT_RULES) - {"kernel"})  # those of the paper: on the simplex
FINITE = st.floats(-1e150, 1e150, allow_nan=False)
DISTANCE_LISTS = st.lists(st.floats(0, 1e6), min_size=1, max_size=12).map(np.array)


def random_model(hidden: int = 8, seed: int = 0) -> NeuralModel:
    rng = np.random.default_rng(seed)
    shapes = NeuralModel.shapes(hidden)
    return NeuralModel.from_arrays({k: rng.standard_normal(shape) for k, shape in shapes.items()})


MODEL = random_model()


def apply(rule: str, d: Array, temperature: float = 1.0, k: int | None = None) -> Array:
    return apply_rule(rule, RuleInputs(d, temperature, model=lambda: MODEL), k).adapters


def assert_simplex(weights: Array, size: int) -> None:
    assert weights.shape == (size,)
    assert weights.dtype == np.float64
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


# --- known answers -------------------------------------------------------------------------------


def test_the_papers_rules_agree_with_scipy() -> None:
    d = np.random.default_rng(0).random(30)
    np.testing.assert_allclose(attentional(RuleInputs(d, 0.5)), softmax(-2 * d), rtol=1e-12)
    np.testing.assert_allclose(
        normalized(RuleInputs(d, 0.3)), softmax(-zscore(d) / 0.3), rtol=1e-12
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-310, 1e150])
@pytest.mark.parametrize("size", [1, 3, 7, 502])
def test_equal_distances_give_equal_weights(value: float, size: int) -> None:
    d = np.full(size, value)
    assert standardize(d).tolist() == [0.0] * size
    for rule in RULES:
        np.testing.assert_allclose(apply(rule, d), 1 / size, rtol=1e-12)
    rounded = np.array([0.3, 0.3, np.nextafter(0.3, 1), 0.3])
    assert not standardize(rounded).any()


def test_low_temperature_gives_one_hot_and_high_temperature_uniform_weights() -> None:
    d = np.array([1.0, 2.0, 4.0])
    for rule in ("attentional", "normalized"):
        assert apply(rule, d, 1e-300).tolist() == [1.0, 0.0, 0.0]
        np.testing.assert_allclose(apply(rule, d, 1e9), 1 / 3, rtol=1e-6)


# --- properties ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40)
@given(d=DISTANCE_LISTS, temperature=st.floats(1e-6, 1e6), data=st.data())
def test_weights_are_nonnegative_and_sum_to_one(
    rule: str, d: Array, temperature: float, data: st.DataObject
) -> None:
    k = data.draw(st.none() | st.integers(1, d.size + 2))
    weights = apply(rule, d, temperature, k)
    assert_simplex(weights, d.size)
    assert np.count_nonzero(weights) <= (k or d.size)
    assert 1 - 1e-9 <= effective_number(weights) <= d.size + 1e-9


@settings(max_examples=60)
@given(d=st.lists(FINITE, min_size=1, max_size=8).map(np.array), temperature=st.floats(1e-9, 1e9))
def test_no_finite_distance_overflows(d: Array, temperature: float) -> None:
    assert_simplex(attentional(RuleInputs(d, temperature)), d.size)
    assert_simplex(normalized(RuleInputs(d, temperature)), d.size)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40)
@given(d=DISTANCE_LISTS, data=st.data())
def test_order_of_the_bank_does_not_matter(rule: str, d: Array, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(d.size)))
    if np.ptp(d) < 1e-6 * np.abs(d).max():
        d = np.arange(float(d.size))  # standardizing would magnify the rounding of the mean
    np.testing.assert_allclose(apply(rule, d[order]), apply(rule, d)[order], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("rule", ["attentional", "normalized"])
@settings(max_examples=40)
@given(d=DISTANCE_LISTS)
def test_nearer_datasets_never_weigh_less(rule: str, d: Array) -> None:
    assert (np.diff(apply(rule, d)[np.argsort(d)]) <= 0).all()


@settings(max_examples=40)
@given(
    d=st.lists(st.integers(0, 1000), min_size=2, max_size=9).map(lambda x: np.array(x, float)),
    scale=st.floats(1e-3, 1e3),
)
def test_normalized_does_not_depend_on_the_scale_of_distances(d: Array, scale: float) -> None:
    np.testing.assert_allclose(
        normalized(RuleInputs(d * scale)), normalized(RuleInputs(d)), rtol=1e-9
    )


@pytest.mark.parametrize("rule", RULES)
def test_inputs_are_not_modified(rule: str) -> None:
    d = np.array([3.0, 1.0, 2.0])
    d.setflags(write=False)
    apply(rule, d, 2.0, 2)
    softmin(d)


# --- top k and effective number ------------------------------------------------------------------


def test_top_k_keeps_the_first_of_equal_weights() -> None:
    weights = np.full(4, 0.25)
    weights.setflags(write=False)
    assert top_k(weights, 2).tolist() == [0.5, 0.5, 0.0, 0.0]
    assert top_k(weights, 9).tolist() == weights.tolist()
    assert effective_number(np.array([0.75, 0.25])) == pytest.approx(1.6)
    assert effective_number(np.array([1.0, -1.0])) == pytest.approx(2)


# --- the network ---------------------------------------------------------------------------------


def test_network_agrees_with_torch(torch: Any) -> None:
    nn, h = torch.nn, 8
    network = nn.Sequential(
        *(nn.Linear(1, h), nn.LayerNorm(h), nn.ReLU()),
        *(nn.Linear(h, h), nn.LayerNorm(h), nn.ReLU()),
        nn.Linear(h, 1),
    )
    state = {name: torch.from_numpy(array) for name, array in MODEL.arrays.items()}
    network.load_state_dict(state)  # names and shapes are torch's
    x = np.linspace(-3, 3, 20)
    expected = network.double()(torch.from_numpy(x)[:, None])[:, 0].detach().numpy()
    np.testing.assert_allclose(MODEL(x), expected, rtol=1e-10)
    weights = neural(RuleInputs(x, 0.5, model=lambda: MODEL))
    np.testing.assert_allclose(weights, softmax(-2 * MODEL(standardize(x))), rtol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"3.weight": np.zeros((8, 7))},
        {"0.bias": np.zeros(3)},
        {"7.weight": np.zeros(1)},
        {"6.bias": np.array([np.nan])},
        {"0.bias": np.zeros(0)},
    ],
)
def test_a_stored_network_of_wrong_shape_is_refused(change: dict[str, Array]) -> None:
    with raises_code("bank.damaged-neural-rule") as caught:
        NeuralModel.from_arrays({**MODEL.arrays, **change})
    assert caught.value.hint == "hf-lorameta bank train-rule DIR"
    with raises_code("bank.damaged-neural-rule"):
        NeuralModel.from_arrays({})


# --- kernel --------------------------------------------------------------------------------------


def by_kernel(d: Array, D: Array, temperature: float = 1.0) -> Array:
    return kernel(RuleInputs(d, temperature, bank_distances=lambda: D))


def line(points: list[float]) -> Array:
    """Distances between points on a line."""
    x = np.array(points)
    distances: Array = np.abs(x[:, None] - x[None])
    return distances


@given(st.lists(st.floats(0, 10), min_size=1, max_size=8), st.floats(0, 10), st.floats(0.1, 5))
@example([0.0, 2.3e-308], 1.0, 1.0)
def test_kernel_weights_sum_to_one(points: list[float], new: float, temperature: float) -> None:
    c = by_kernel(np.abs(np.array(points) - new), line(points), temperature)
    assert np.isfinite(c).all()
    assert c.sum() == pytest.approx(1.0, abs=1e-9)


def test_kernel_agrees_with_ridge_regression_in_its_feature_space() -> None:
    points, values, new = [0.0, 0.4, 1.5, 2.0], np.array([3.0, -1.0, 0.5, 2.0]), 0.7
    D = line(points)
    width = KERNEL_WIDTH * np.median(D[~np.eye(4, dtype=bool)])
    K, centered = np.exp(-D / width), values - values.mean()

    def objective(a: Array) -> float:
        residual = K @ a - centered
        return float(residual @ residual + RIDGE * a @ K @ a)

    a = minimize(objective, np.zeros(4), tol=1e-12).x
    expected = values.mean() + np.exp(-np.abs(np.array(points) - new) / width) @ a
    got = by_kernel(np.abs(np.array(points) - new), D) @ values
    assert got == pytest.approx(expected, rel=1e-4)


def test_kernel_is_uniform_far_from_all_datasets() -> None:
    np.testing.assert_allclose(by_kernel(np.full(4, 1e3), line([0, 1, 2, 3])), 0.25)


@pytest.mark.parametrize("least", [2.3e-308, 5e-324])
def test_kernel_of_datasets_at_almost_no_distance_takes_all_others_as_far(least: float) -> None:
    D = line([0, least])  # a distance in units of the kernel's width overflows
    np.testing.assert_array_equal(by_kernel(np.array([3.0, 3.0]), D), [0.5, 0.5])
    near, far = by_kernel(np.array([0.0, 3.0]), D)
    assert near > far
    assert near + far == pytest.approx(1)


def test_the_general_adapter_remains_if_no_dataset_is_near() -> None:
    far = RuleInputs(np.array([9.0, 9.0]), 1e-3, lambda: line([0, 1]), general=True)
    for k in (None, 1):
        coefficients = apply_rule("kernel", far, k)
        np.testing.assert_allclose(coefficients.adapters, [0, 0])
        assert coefficients.general == pytest.approx(1)


def test_kernel_splits_a_weight_among_duplicates() -> None:
    one = by_kernel(np.array([0.5, 0.5]), line([0, 1]))
    copied = by_kernel(np.array([0.5, 0.5, 0.5]), line([0, 0, 1]))
    assert copied[2] > 0.8 * one[1] > copied[0]


def test_kernel_of_one_or_of_equal_datasets_is_uniform() -> None:
    assert by_kernel(np.array([0.3]), np.zeros((1, 1))).tolist() == [1.0]
    assert by_kernel(np.array([0.3, 0.3]), np.zeros((2, 2))).tolist() == [0.5, 0.5]
