"""Coefficients fitted on rows: known optima without a model, sums and products of a real bank."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.pack import pack
from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.refine.directions import Directions
from hf_lorameta.refine.fit import MODULE_SCALE_LARGE, MODULE_SCALE_SMALL, Fit, select_module_scale
from hf_lorameta.refine.gauss_newton import STEPS, refine
from hf_lorameta.refine.registry import REFINERS
from hf_lorameta.refine.results import Validation
from hf_lorameta.refine.search import search
from hf_lorameta.refine.shrink import backtrack_scale, validate
from tests.method.oracles import update

ROWS = [(f"input {i}", f"output {i}") for i in range(16)]
Array = NDArray[np.float64]


class Model:
    """Mixture and base model in one: what c stands for is c itself."""

    c: Array
    engine = "none"
    finite_difference_step = 0.05
    base = 10.0
    cleared = False

    def set(self, update: Any, coefficients: Coefficients) -> None:
        assert update is self
        self.c, self.cleared = coefficients.shared, False

    def clear(self) -> None:
        self.cleared = True

    def encode(self, rows: Sequence[Any]) -> list[Tokens]:
        """Outputs of 1, 2 or 3 tokens."""
        return [Tokens([i], [0] * (1 + i % 3)) for i, _ in enumerate(rows)]


class Slope(Model):
    """The loss of every row is 8 c²."""

    def __init__(self, base: float) -> None:
        self.base = base

    def loss(self, tokens: Sequence[Tokens]) -> float:
        return self.base if self.cleared else float(8 * self.c @ self.c)


class Logistic(Model):
    """16 rows, whose tokens' log odds are a bent function of c; truth explains the labels."""

    def __init__(self, truth: list[float], base: float = 10.0, bend: float = 0.05) -> None:
        self.bend = bend
        rng, size = np.random.default_rng(3), len(truth)
        x = rng.standard_normal((len(ROWS), size))
        label = np.sign(x @ np.array(truth) + rng.logistic(size=len(ROWS)))
        self.x, self.base, self.c = x * label[:, None], base, np.zeros(size)

    def grams(self, among: Any = slice(None)) -> Array:
        x = self.x[:, among]
        return (x.T @ x)[None]

    def _odds(self, tokens: Sequence[Tokens]) -> tuple[Array, Array]:
        x = self.x[[row.prompt[0] for row in tokens]]
        m = x @ self.c
        return m + self.bend * m**2, (1 + 2 * self.bend * m)[:, None] * x

    def loss(self, tokens: Sequence[Tokens]) -> float:
        return self.base if self.cleared else float(np.logaddexp(0, -self.log_odds(tokens)).mean())

    def gradient(self, tokens: Any, mixture: Any) -> Any:
        assert mixture is self
        m, slopes = self._odds(tokens)
        return np.logaddexp(0, -m), -(slopes / (1 + np.exp(m))[:, None])[:, None]

    def log_odds(self, tokens: Any) -> Any:
        return np.repeat(self._odds(tokens)[0], [len(row.output) for row in tokens])

    def at(self, c: Array) -> float:
        """The loss of all rows."""
        self.set(self, Coefficients(c))
        return self.loss(self.encode(ROWS))


class Modular(Logistic):
    """The same of two modules, each of which sees features of its own."""

    def grams(self) -> Array:
        return np.stack([part.T @ part for part in np.split(self.x, 2, axis=1)])

    def set(self, update: Any, coefficients: Coefficients) -> None:
        rows = [coefficients.for_module(0), coefficients.for_module(1)]
        super().set(update, Coefficients(np.concatenate(rows)))

    def at_modules(self, c: Coefficients) -> float:
        """The loss of all rows."""
        self.set(self, c)
        return self.loss(self.encode(ROWS))

    def gradient(self, tokens: Any, mixture: Any) -> Any:
        losses, slopes = super().gradient(tokens, mixture)
        return losses, slopes.reshape(len(losses), 2, -1)


TELLING = [2.0, -1.5, 1.0, 0.5]


@pytest.mark.parametrize("method", REFINERS)
def test_a_fit_comes_near_the_best_coefficients_negative_ones_too(method: str) -> None:
    model = Logistic(TELLING)
    best = minimize(model.at, np.zeros(4), method="Nelder-Mead", options={"maxiter": 4000})
    start = np.full(4, 0.25)
    c, report = REFINERS[method].function(start, model, ROWS, model)
    assert report.start == pytest.approx(model.at(start))
    assert report.end == pytest.approx(model.at(c.shared))
    assert report.end - best.fun < 0.5 * (report.start - best.fun)  # stiffness keeps it back
    assert c.shared[1] < 0
    assert best.fun < report.held_out < report.start
    assert (report.method, report.rows, report.base) == (method, 16, 10.0)
    assert report.engine == "none"
    assert report.history[0] == report.start


@pytest.mark.parametrize("method", REFINERS)
def test_a_fit_gives_the_same_twice(method: str) -> None:
    results = [
        REFINERS[method].function(np.full(4, 0.25), m, ROWS, m)
        for m in [Logistic(TELLING) for _ in "ab"]
    ]
    assert results[0][0].shared.tolist() == results[1][0].shared.tolist()
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("method", REFINERS)
def test_where_rows_tell_nothing_of_each_other_the_start_is_returned(method: str) -> None:
    model = Logistic([0.0])
    model.x = np.array([[1.0], [1.0], [-1.0], [-1.0]] * 4)  # half of the folds against the others
    c, report = REFINERS[method].function(np.zeros(1), model, ROWS, model)
    assert c.shared.tolist() == [0.0]
    assert report.end == report.start == report.held_out == pytest.approx(np.log(2))


@pytest.mark.parametrize("method", REFINERS)
def test_what_pays_on_the_rows_alone_is_not_kept(method: str) -> None:
    model = Logistic(TELLING)
    model.x = np.random.default_rng(1).standard_normal((16, 6))  # labels are noise
    start = np.full(6, 0.01)
    c, report = REFINERS[method].function(start, model, ROWS, model)
    assert min(report.history) < report.start - 0.01
    assert c.shared.tolist() == start.tolist()
    assert report.end == report.held_out == report.start


@pytest.mark.parametrize("method", REFINERS)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.0])
def test_the_way_is_shortened_until_it_serves_held_out_rows(
    method: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, start = Logistic(TELLING), np.full(4, 0.01)
    whole, _ = REFINERS[method].function(start, model, ROWS, model)
    shares = iter([1.0, 0.5, 0.25])
    crossed = Fit._cross_validated_loss

    def too_far(fit: Fit, ways: Any) -> float:
        return 9.0 if next(shares) > share else crossed(fit, ways)

    monkeypatch.setattr(Fit, "_cross_validated_loss", too_far)
    c, report = REFINERS[method].function(start, model, ROWS, model)
    np.testing.assert_allclose(c.shared, start + share * (whole.shared - start))
    assert report.end == pytest.approx(model.at(c.shared))
    assert report.held_out <= report.start


@pytest.mark.parametrize("method", REFINERS)
def test_held_out_rows_are_scored_with_what_the_others_say(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_lorameta.refine.gauss_newton.CONVERGENCE_TOL", -1.0)
    monkeypatch.setattr("hf_lorameta.refine.gauss_newton.PENALTY", 0.1)
    model = Logistic(TELLING, bend=0.0)
    c, report = REFINERS[method].function(np.zeros(4), model, ROWS, model, steps=12)
    tokens = model.encode(ROWS)
    sizes = np.array([len(row.output) for row in tokens])
    gram = model.grams()[0] / np.diag(model.grams()[0]).mean()
    values, vectors = np.linalg.eigh(gram)
    whitened = model.x @ (vectors / np.sqrt(values + 0.1)) @ vectors.T

    def fitted(rows: Array) -> Array:
        def stiff(u: Array) -> float:
            losses = np.logaddexp(0, -whitened[rows] @ u)
            return float(losses @ sizes[rows] / sizes.sum() + 0.1 * u @ u)

        return minimize(stiff, np.zeros(4)).x

    every, total = np.arange(16), 0.0
    for fold in range(4):
        held = every[every % 4 == fold]
        u = fitted(every[every % 4 != fold])
        total += np.logaddexp(0, -whitened[held] @ u) @ sizes[held]
    assert report.held_out == pytest.approx(total / sizes.sum(), abs=2e-3)
    expected = np.logaddexp(0, -whitened @ fitted(every)) @ sizes / sizes.sum()
    assert report.end == pytest.approx(expected, abs=2e-3)
    assert model.at(c.shared) == pytest.approx(report.end)


def test_modules_go_apart_where_rows_agree_on_it() -> None:
    model = Modular([3.0, -3.0, 0.5, -3.0, 3.0, 0.5])  # what one module needs hurts in the other
    start = np.zeros(3)
    c, report = refine(start, model, ROWS, model)
    assert c.per_module is not None
    assert report.by_module
    assert (np.sign(c.per_module[:, :2]) == [[1, -1], [-1, 1]]).all()
    assert model.at_modules(c) == pytest.approx(report.end)
    together = minimize(lambda c: model.at_modules(Coefficients(c)), start, method="Nelder-Mead")
    assert report.held_out < together.fun


def test_modules_stay_together_where_that_serves_held_out_rows_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Modular([1.0] * 16)
    noise = np.random.default_rng(0).standard_normal((16, 8))  # learned apart, gone together
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
        ((4.0, 3.0, 2.9, 2.9, 2.81), MODULE_SCALE_SMALL),  # not as much again
        ((4.0, 3.0, 2.9, 2.9, 2.79), MODULE_SCALE_LARGE),
        (
            (9.0, 3.0, 2.9, 2.9, 2.51),
            MODULE_SCALE_SMALL,
        ),  # not plenty, and the bank has brought much
        ((9.0, 3.0, 2.9, 2.9, 2.49), MODULE_SCALE_LARGE),
        ((4.0, 3.0, 2.0, 2.0, 1.61), MODULE_SCALE_SMALL),
        ((4.0, 3.0, 2.0, 2.0, 1.59), MODULE_SCALE_LARGE),  # plenty
        ((4.0, 3.0, 2.9, 2.9, 2.89), MODULE_SCALE_SMALL),  # too little to tell
        ((9.0, 3.0, 3.5, 3.5, 3.05), MODULE_SCALE_SMALL),  # no gain at all
        ((4.0, 3.0, 2.0, 2.5, 2.0), 0.0),  # it gains over a little, not over none
        ((4.0, 3.0, 2.0, 2.01, 2.5), MODULE_SCALE_SMALL),
        ((4.0, *(np.nan,) * 4), 0.0),
    ],
)
def test_how_far_modules_go_apart(held_out: tuple[float, ...], expected: float) -> None:
    assert select_module_scale(*held_out) == expected


def change_of(directions: Directions, u: Array) -> Array:
    """(3, 4) change of the coefficients of 4 adapters in 3 modules."""
    c = directions.coefficients(np.zeros(4), u)
    return np.stack([c.for_module(i) for i in range(3)])


@pytest.mark.parametrize("by", [0.0, 3.0])
def test_slopes_by_a_direction_are_those_of_the_coefficients(by: float) -> None:
    rng = np.random.default_rng(2)
    factors = rng.standard_normal((3, 4, 9))  # of three modules with four adapters
    directions = Directions.of(factors @ factors.transpose(0, 2, 1)).with_module_scale(by)
    assert directions.dimensions == (16 if by else 4)
    u, slopes = rng.standard_normal(directions.dimensions), rng.standard_normal((5, 3, 4))
    change = change_of(directions, u)
    along = directions.slopes(slopes) @ u
    np.testing.assert_allclose(along, np.einsum("rlk,lk->r", slopes, change))


def test_in_any_direction_an_update_grows_alike() -> None:
    rng = np.random.default_rng(2)
    factors = rng.standard_normal((3, 4, 400)) * rng.uniform(1, 5, (4, 1))
    grams = factors @ factors.transpose(0, 2, 1)
    directions = Directions.of(grams)
    length = np.trace(grams.sum(0)) / 4  # of one adapter, squared
    for place in range(16):
        change = change_of(directions, np.eye(16)[place])
        square = np.einsum("li,lij,lj->", change, grams, change) / length
        expected = 1 if place < 4 else 1 / 3  # in one module of three
        assert 0.5 * expected < square <= expected  # short ones are not blown up


@pytest.mark.parametrize("size", [2, 40])  # fewer coordinates than rows, and more
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_where_slopes_are_no_numbers_the_start_is_returned(size: int) -> None:
    class Broken(Modular):
        def gradient(self, tokens: Any, mixture: Any) -> Any:
            losses, slopes = super().gradient(tokens, mixture)
            return losses, np.nan * slopes

    model = Broken([1.0] * 2 * size)
    c, report = refine(np.zeros(size), model, ROWS, model)
    assert c.shared.tolist() == [0.0] * size
    assert np.isfinite(report.history).all()
    assert not report.by_module


def test_points_are_asked_for_while_they_promise_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int, float]] = []
    model = Logistic(TELLING)
    _, report = refine(np.zeros(4), model, ROWS, model, progress=lambda *told: seen.append(told))
    assert 1 < report.steps < STEPS
    assert len(report.history) == report.steps + 1
    assert seen == [(i, STEPS + 1, loss) for i, loss in enumerate(report.history, 1)]
    monkeypatch.setattr("hf_lorameta.refine.gauss_newton.CONVERGENCE_TOL", 10.0)
    _, hasty = refine(np.zeros(4), model, ROWS, model)
    assert hasty.steps == 1
    assert hasty.history == pytest.approx(report.history[:2])


def test_coefficients_worse_than_the_base_model_are_drawn_back() -> None:
    start = Logistic(TELLING).at(np.full(4, -0.5))
    model = Logistic(TELLING, base=0.75)
    c, report = refine(np.full(4, -0.5), model, ROWS, model, steps=0)
    assert start > 0.75 >= report.end
    assert c.shared.tolist() in [[-0.25] * 4, [-0.125] * 4, [-0.0625] * 4]


def test_where_nothing_helps_nothing_is_left() -> None:
    model = Slope(base=0.01)
    rows = model.encode(ROWS)
    assert backtrack_scale(Coefficients(np.ones(1)), 8.0, 0.01, model, model, rows) == (0.0, 0.01)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (9.0, Validation(16, 9.0, 8.0, 8.0, 1.0, "none")),
        (5.0, Validation(16, 5.0, 8.0, 2.0, 0.5, "none")),
        (1.5, Validation(16, 1.5, 8.0, 0.5, 0.25, "none")),
        (0.1, Validation(16, 0.1, 8.0, 0.1, 0.0, "none")),
    ],
)
def test_an_adapter_is_weakened_until_it_is_not_worse(base: float, expected: Validation) -> None:
    model = Slope(base)
    assert validate(model, model, model.encode(ROWS)) == expected


def test_a_search_moves_the_largest_coefficients_only() -> None:
    model = Logistic(TELLING)
    start = np.array([0.2, 0.1, 0.15, 0.0])
    c, report = search(start, model, ROWS, model, dimensions=2)
    assert c.shared[[1, 3]].tolist() == [0.1, 0.0]
    assert report.end < report.start


def test_too_few_rows_are_refused() -> None:
    model = Logistic(TELLING)
    with pytest.raises(EmptyDatasetError, match="3 rows to refine on"):
        refine(np.zeros(4), model, ROWS[:3], model)


# --- a real bank ---------------------------------------------------------------------------------


def whole(bank: Bank, used: list[int]) -> list[list[Any]]:
    """Every module's updates s·B·A, one an adapter, dense."""
    entries = [bank.index.entries[i] for i in used]
    files = bank.adapters(entries)

    def dense(file: Any, entry: Any, name: str) -> Any:
        A, B = bank.expand(name, file.tensor(name, "A"), file.tensor(name, "B"))
        return update([A], [B], [1.0], [entry.scaling])

    pairs = list(zip(files, entries, strict=True))
    return [[dense(file, entry, m.name) for file, entry in pairs] for m in bank.layout]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return pack(Bank.from_pretrained(), tmp_path_factory.mktemp("pack") / "pack", basis=12)


@pytest.mark.parametrize("held", [0, 1 << 30], ids=["read anew", "in memory"])
@pytest.mark.parametrize("kind", ["bank", "pack"])
def test_pairs_and_products_are_those_of_the_dense_updates(
    kind: str, held: int, packed: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_lorameta.bank.weighted_sum.MAX_CACHED", held)
    bank = Bank.from_pretrained() if kind == "bank" else packed
    used, c = [2, 5, 11], np.array([0.5, -0.25, 2.0])
    mixture, updates = WeightedSum(bank, used), whole(bank, used)
    for each, (A, B) in zip(updates, mixture.pairs(Coefficients(c)), strict=True):
        np.testing.assert_allclose(B @ A, np.tensordot(c, each, 1), atol=1e-5)
    apart = np.random.default_rng(1).standard_normal((len(updates), 3))
    for line, each, (A, B) in zip(
        apart, updates, mixture.pairs(Coefficients.by_module(apart)), strict=True
    ):
        np.testing.assert_allclose(B @ A, np.tensordot(line, each, 1), atol=1e-5)
    products = [[[float((a * b).sum()) for a in each] for b in each] for each in updates]
    rough = 1e-4 if kind == "bank" else 1e-2  # the spaces are orthonormal to bfloat16's precision
    scale = np.abs(products).max()
    np.testing.assert_allclose(mixture.grams(), products, rtol=rough, atol=rough * scale)
    monkeypatch.setattr("hf_lorameta.bank.weighted_sum._GRAM_BATCH", 2)
    np.testing.assert_allclose(mixture.grams(), products, rtol=rough, atol=rough * scale)
    few = np.array(products)[:, [2, 0]][:, :, [2, 0]]
    np.testing.assert_allclose(mixture.grams([2, 0]), few, rtol=rough, atol=rough * scale)


@pytest.mark.parametrize("held", [0, 1 << 30], ids=["read anew", "in memory"])
@pytest.mark.parametrize("kind", ["bank", "pack"])
def test_adapters_without_weight_are_left_out(
    kind: str, held: int, packed: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank.from_pretrained() if kind == "bank" else packed
    monkeypatch.setattr("hf_lorameta.bank.weighted_sum.MAX_CACHED", held)
    mixture = WeightedSum(bank, [2, 5, 11])
    monkeypatch.setattr("hf_lorameta.bank.weighted_sum.MAX_CACHED", 1 << 30)
    apart = list(
        mixture.pairs(Coefficients.by_module(np.outer(np.ones(len(bank.layout)), [0.0, -0.5, 0.0])))
    )
    few = list(mixture.pairs(Coefficients(np.array([0.0, -0.5, 0.0]))))
    for (A, B), (C, D) in zip(few, apart, strict=True):
        np.testing.assert_array_equal(A, C)
        np.testing.assert_array_equal(B, D)
    assert {len(A) for A, _ in few} == {bank.index.entries[5].rank}
    alone = WeightedSum(bank, [5]).pairs(Coefficients(np.array([-0.5])))
    for (A, B), (C, D) in zip(few, alone, strict=True):
        np.testing.assert_allclose(B @ A, D @ C, atol=1e-6)


def test_what_is_held_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank.from_pretrained()
    name = bank.layout[0].name
    held = WeightedSum(bank, [0, 1])
    assert held.factors(name) is held.factors(name)
    monkeypatch.setattr("hf_lorameta.bank.weighted_sum.MAX_CACHED", 0)
    read = WeightedSum(bank, [0, 1])
    assert read.factors(name) is not read.factors(name)
    np.testing.assert_array_equal(read.factors(name).B, held.factors(name).B)


def test_sums_by_adapter_follow_their_ranks() -> None:
    mixture = WeightedSum(Bank.from_pretrained(), [3, 1])
    ranks = [mixture._bank.index.entries[i].rank for i in (3, 1)]
    assert mixture.rank == sum(ranks)
    assert mixture.by_adapter(np.ones(mixture.rank)).tolist() == ranks
    assert mixture.by_adapter(np.ones((2, mixture.rank))).tolist() == [ranks, ranks]
