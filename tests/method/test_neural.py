"""Training of the neural rule: its loss, its determinism, and its errors."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from hf_lorameta.environment import install_hint
from hf_lorameta.errors import BankError
from hf_lorameta.method import neural as neural_module
from hf_lorameta.method.coefficients import RuleInputs, neural, normalized
from hf_lorameta.method.neural import NeuralModel, TrainingReport, _split, gram, train_neural
from tests.support.codes import raises_code

torch = pytest.importorskip("torch")

Array = NDArray[np.float64]


def planted(n: int = 24, seed: int = 0) -> tuple[Array, NDArray[np.float32]]:
    """Distances and adapters that both follow from positions in the plane."""
    rng = np.random.default_rng(seed)
    positions = rng.standard_normal((n, 2))
    adapters = np.hstack([positions, 0.1 * rng.standard_normal((n, 6))]).astype(np.float32)
    return np.linalg.norm(positions[:, None] - positions[None], axis=-1), adapters


@pytest.fixture(scope="module")
def fitted() -> tuple[NeuralModel, TrainingReport]:
    distances, X = planted()
    return train_neural(distances, gram([X]), hidden=32, learning_rate=1e-2)


# --- gram ----------------------------------------------------------------------------------------


def test_the_gram_matrix_of_blocks_is_that_of_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).standard_normal((5, 101)).astype(np.float32)
    expected = X.astype(float) @ X.astype(float).T
    monkeypatch.setattr(neural_module, "_COLUMNS", 16)
    got = gram(X[:, start : start + 40] for start in range(0, 101, 40))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, got.T)


# --- the loss ------------------------------------------------------------------------------------


def explicit_errors(distances: Array, X: Array, rule: Callable[[Array], Array]) -> Array:
    """‖Σ_{j≠i} c_j θ_j − θ_i‖² / mean ‖θ‖², with the adapters themselves."""
    errors = []
    for i, row in enumerate(distances):
        others = np.arange(len(row)) != i
        c = rule(row[others])
        errors.append(((c @ X[others] - X[i]) ** 2).sum())
    scaled: Array = np.array(errors) / (X**2).sum(axis=1).mean()
    return scaled


def test_reported_losses_are_errors_in_weight_space(
    fitted: tuple[NeuralModel, TrainingReport],
) -> None:
    model, report = fitted
    distances, X32 = planted()
    X = X32.astype(float)
    train, held_out = _split(len(X), 0)
    ours = explicit_errors(distances, X, lambda d: neural(RuleInputs(d, model=lambda: model)))
    theirs = explicit_errors(distances, X, lambda d: normalized(RuleInputs(d)))
    equal = explicit_errors(distances, X, lambda d: np.full(d.size, 1 / d.size))

    def close(expected: Array) -> object:
        return pytest.approx(expected.mean(), rel=1e-4, abs=1e-6)

    assert report.end.train == close(ours[train])
    assert report.end.validation == close(ours[held_out])
    assert report.normalized.train == close(theirs[train])
    assert report.normalized.validation == close(theirs[held_out])
    assert report.uniform.validation == close(equal[held_out])


def test_training_reduces_the_loss_below_that_of_equal_weights(
    fitted: tuple[NeuralModel, TrainingReport],
) -> None:
    _, report = fitted
    assert report.end.train < 0.7 * report.start.train
    assert report.end.validation < report.start.validation
    assert report.end.validation < 0.8 * report.uniform.validation
    assert report.end.train < report.normalized.train


def test_a_datasets_own_adapter_is_left_out() -> None:
    # the diagonal of the distances would give it away: it must not be read at all
    distances, X = planted(8)
    shown = distances.copy()
    np.fill_diagonal(shown, -1e6)
    first, second = (train_neural(d, gram([X]), hidden=4, steps=3) for d in (distances, shown))
    assert first[1] == second[1]
    # adapters at right angles cannot predict one another: the loss stays above 1
    _, report = train_neural(distances, np.eye(8), hidden=4, steps=3)
    assert min(report.end.train, report.end.validation, report.normalized.train) > 1


def test_the_loss_does_not_depend_on_the_adapters_scale() -> None:
    distances, X = planted(8)
    _, small = train_neural(distances, gram([X]), hidden=4, steps=3)
    _, large = train_neural(distances, gram([1024 * X]), hidden=4, steps=3)
    assert small == large


def test_passes_over_parts_of_the_datasets_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    distances, X = planted(10)
    _, whole = train_neural(distances, gram([X]), hidden=8, steps=5)
    monkeypatch.setattr(neural_module, "_PAIRS", 30)
    _, parts = train_neural(distances, gram([X]), hidden=8, steps=5)
    assert parts.end.train == pytest.approx(whole.end.train, rel=1e-5)


# --- determinism ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_keeps_torchs_random_state() -> None:
    distances, X = planted(8)
    arguments = (distances, gram([X]), 8, 5)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    with torch.no_grad():  # which a caller may have set
        first, report = train_neural(*arguments)
    assert report.end != report.start
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second, again = train_neural(*arguments)
    other, _ = train_neural(*arguments, seed=1)
    assert report == again
    for name, array in first.arrays.items():
        assert array.tobytes() == second.arrays[name].tobytes()
    assert not np.array_equal(first.arrays["3.weight"], other.arrays["3.weight"])


def test_the_number_of_threads_changes_rounding_only() -> None:
    distances, X = planted(12)
    threads = torch.get_num_threads()
    try:
        reports = []
        for count in (1, 2):
            torch.set_num_threads(count)
            reports.append(train_neural(distances, gram([X]), hidden=16, steps=5)[1])
    finally:
        torch.set_num_threads(threads)
    assert reports[0].end.train == pytest.approx(reports[1].end.train, rel=1e-5)


# --- errors ---------------------------------------------------------------------------------------


def test_adapters_that_nothing_can_be_learned_from_are_refused() -> None:
    wrong, zero = np.full((3, 3), np.nan), np.zeros((3, 3))
    for distances, G in ((wrong, np.eye(3)), (np.eye(3), wrong), (zero, zero)):
        with pytest.raises(BankError):
            train_neural(distances, G)


def test_missing_torch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with raises_code("extra.missing") as caught:
        train_neural(np.zeros((3, 3)), np.eye(3))
    assert caught.value.hint == install_hint("eval")
