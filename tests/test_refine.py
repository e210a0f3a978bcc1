"""Coefficients fitted on rows: known optima without a model, sums and products of a real bank."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hf_lorameta.bank import Bank
from hf_lorameta.combine import dense
from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.packing import pack
from hf_lorameta.refine import (
    REFINERS,
    Check,
    LossModel,
    Mixture,
    check,
    drawn_back,
    refine,
    search,
    split_rows,
)
from hf_lorameta.scores import Tokens

ROWS = [(f"input {i}", f"output {i}") for i in range(16)]
Array = NDArray[np.float64]


class Quadratic:
    """Mixture and model in one: the loss of c is ½ ‖M (c − best)‖² + floor, held out or not."""

    def __init__(self, best: list[float], base: float | None = None, worse_out: bool = False):
        self.best = np.array(best)
        size = len(best)
        self.M = np.eye(size) + 0.3 * np.random.default_rng(0).standard_normal((size, size))
        self.c = np.zeros(size)
        self.worse_out = worse_out
        self.base = base
        self.cleared = False

    def gram(self) -> Array:
        return self.M.T @ self.M

    def pairs(self, c: Array) -> Iterator[Any]:
        yield c

    def set(self, pairs: Iterator[Any]) -> None:
        (self.c,) = pairs
        self.cleared = False

    def clear(self) -> None:
        self.cleared = True

    def encode(self, rows: Sequence[Any]) -> list[Tokens]:
        return [Tokens([i], [0]) for i, _ in enumerate(rows)]

    def loss(self, tokens: Sequence[Tokens]) -> float:
        if self.cleared:
            return self.base if self.base is not None else 10.0
        held_out = len(tokens) == 4
        if held_out and self.worse_out:
            return float(1 + np.abs(self.c).sum())
        residual = self.M @ (self.c - self.best)
        return float(residual @ residual / 2)

    def gradient(self, tokens: Any, mixture: Any) -> Any:
        assert mixture is self
        residual = self.M @ (self.c - self.best)
        return float(residual @ residual / 2), self.M.T @ residual

    def log_odds(self, tokens: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("method", REFINERS)
def test_a_fit_comes_near_the_best_coefficients_negative_ones_too(method: str) -> None:
    model = Quadratic([0.6, -0.4, 0.3, 0.0])
    start = np.full(4, 0.25)
    c, report = REFINERS[method](start, model, ROWS, model)
    assert report.end < 0.1 * report.start
    assert c[1] < 0
    assert (report.rows, report.held_out) == (12, 4)
    assert report.history[0] == report.start
    assert report.end == min(report.history)
    assert report.base == 10.0


@pytest.mark.parametrize("method", REFINERS)
def test_a_fit_gives_the_same_twice(method: str) -> None:
    results = [
        REFINERS[method](np.full(4, 0.25), m, ROWS, m) for m in [Quadratic([1, -1, 0, 2])] * 2
    ]
    assert results[0][0].tolist() == results[1][0].tolist()
    assert results[0][1] == results[1][1]


def test_where_held_out_rows_only_get_worse_the_start_is_returned() -> None:
    model = Quadratic([5.0, 5.0], worse_out=True)
    c, report = refine(np.array([0.5, 0.5]), model, ROWS, model)
    assert c.tolist() == [0.5, 0.5]
    assert (report.steps, report.start, report.end) == (0, 2.0, 2.0)


def test_coefficients_worse_than_the_base_model_are_drawn_back() -> None:
    model = Quadratic([5.0, 5.0], base=1.3, worse_out=True)
    c, report = refine(np.array([0.5, 0.5]), model, ROWS, model)
    assert c.tolist() == [0.125, 0.125]
    assert report.end == 1.25


def test_where_nothing_helps_nothing_is_left() -> None:
    model = Quadratic([5.0, 5.0], base=0.5, worse_out=True)
    held_out = model.encode(range(4))
    assert drawn_back(np.ones(2), 3.0, 0.5, model, model, held_out) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("base", "expected"),
    [(9.0, Check(16, 9.0, 8.0, 8.0, 1.0)), (5.0, Check(16, 5.0, 8.0, 2.0, 0.5)),
     (1.5, Check(16, 1.5, 8.0, 0.5, 0.25)), (0.1, Check(16, 0.1, 8.0, 0.1, 0.0))],
)  # fmt: skip
def test_an_adapter_is_weakened_until_it_is_not_worse(base: float, expected: Check) -> None:
    model = Quadratic([0.0], base=base)
    model.M = np.eye(1) * 4  # a loss of 8 c²
    assert check(model, model, model.encode(ROWS)) == expected


def test_a_search_moves_the_largest_coefficients_only() -> None:
    model = Quadratic([0.5, 0.5, 0.5, 0.5])
    model.M = np.eye(4)
    start = np.array([0.4, 0.1, 0.3, 0.2])
    c, report = search(start, model, ROWS, model, dimensions=2, evaluations=60)
    assert c[[1, 3]].tolist() == [0.1, 0.2]
    assert report.end < report.start


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(EmptyDatasetError, match="3 rows to refine on"):
        split_rows(ROWS[:3])


def test_the_model_of_the_loss_meets_its_points_and_its_gradient_is_its_own() -> None:
    rng = np.random.default_rng(1)
    model = LossModel([3, 1, 2])
    points = [rng.standard_normal(4) for _ in range(3)]
    losses = [rng.uniform(0.1, 3, 3) for _ in points]
    for u, found in zip(points, losses, strict=True):
        model.add(u, found, rng.standard_normal((3, 4)))
    for u, found in zip(points, losses, strict=True):
        expected = found @ np.array([3, 1, 2]) / 6
        assert model.at(u)[0] == pytest.approx(expected, rel=1e-3)
    u, step = rng.standard_normal(4), 1e-6
    for i, slope in enumerate(model.at(u)[1]):
        ends = [model.at(u + sign * step * np.eye(4)[i])[0] for sign in (1, -1)]
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_a_logistic_loss_is_fitted_in_one_step() -> None:
    """Where log odds are linear, the model of the loss is exact and its minimum the answer."""
    J = np.array([[1.0, 0.2], [-0.5, 1.0], [0.3, -1.0]])

    def losses(u: Array) -> tuple[Array, Array]:
        m = J @ u
        return np.logaddexp(0, -m), -J / (1 + np.exp(m))[:, None]

    model = LossModel([1, 1, 1])
    model.add(np.zeros(2), *losses(np.zeros(2)))
    value, slope = losses(model.minimum(0.0))
    assert np.abs(slope.mean(0)).max() < 1e-4
    assert value.mean() < losses(np.zeros(2))[0].mean()


# --- a real bank ---------------------------------------------------------------------------------


def whole(bank: Bank, used: list[int]) -> list[list[Any]]:
    """Every module's updates s·B·A, one an adapter, dense."""
    entries = [bank.index.entries[i] for i in used]
    files = bank.adapters(entries)

    def update(file: Any, entry: Any, name: str) -> Any:
        A, B = bank.expand(name, file.tensor(name, "A"), file.tensor(name, "B"))
        return dense([A], [B], [1.0], [entry.scaling])

    pairs = list(zip(files, entries, strict=True))
    return [[update(file, entry, m.name) for file, entry in pairs] for m in bank.layout]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return pack(Bank.from_pretrained(), tmp_path_factory.mktemp("pack") / "pack", basis=12)


@pytest.mark.parametrize("held", [0, 1 << 30], ids=["read anew", "in memory"])
@pytest.mark.parametrize("kind", ["bank", "pack"])
def test_pairs_and_products_are_those_of_the_dense_updates(
    kind: str, held: int, packed: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_lorameta.refine.HELD", held)
    bank = Bank.from_pretrained() if kind == "bank" else packed
    used, c = [2, 5, 11], np.array([0.5, -0.25, 2.0])
    mixture, updates = Mixture(bank, used), whole(bank, used)
    for each, (A, B) in zip(updates, mixture.pairs(c), strict=True):
        np.testing.assert_allclose(B @ A, np.tensordot(c, each, 1), atol=1e-5)
    products = [
        [sum(float((u[i] * u[j]).sum()) for u in updates) for j in range(3)] for i in range(3)
    ]
    rough = 1e-4 if kind == "bank" else 1e-2  # the spaces are orthonormal to bfloat16's precision
    scale = np.abs(products).max()
    np.testing.assert_allclose(mixture.gram(), products, rtol=rough, atol=rough * scale)


def test_what_is_held_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank.from_pretrained()
    name = bank.layout[0].name
    held = Mixture(bank, [0, 1])
    assert held.factors(name) is held.factors(name)
    monkeypatch.setattr("hf_lorameta.refine.HELD", 0)
    read = Mixture(bank, [0, 1])
    assert read.factors(name) is not read.factors(name)
    np.testing.assert_array_equal(read.factors(name).B, held.factors(name).B)


def test_sums_by_adapter_follow_their_ranks() -> None:
    mixture = Mixture(Bank.from_pretrained(), [3, 1])
    ranks = [mixture._bank.index.entries[i].rank for i in (3, 1)]
    assert mixture.rank == sum(ranks)
    assert mixture.by_adapter(np.ones(mixture.rank)).tolist() == ranks
