"""From distances to coefficients: how much of every adapter goes into the new one.

The rules of the paper return weights on the simplex, ``c ≥ 0`` and ``Σ c = 1``, through
``softmin(x)_i = exp(−x_i) / Σ_j exp(−x_j)``. Those of `kernel` sum to one and may be negative. A
temperature T divides what is exponentiated: below 1 is sharper, above 1 flatter. `COEFFICIENTS`
lists the rules; the command line and the model card read that table.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import BankError, RecipeError
from hf_lorameta.method.neural_model import FIT_HINT, NeuralModel
from hf_lorameta.types import Array


def softmin(x: Array) -> Array:
    """``exp(−x_i) / Σ_j exp(−x_j)``, without overflow.

    Args:
        x: (N,) finite.

    Returns:
        (N,) float64 on the simplex; the smallest x gets the largest weight.

    Example:
        >>> softmin(np.array([0.0, np.log(3)])).round(4)
        array([0.75, 0.25])
    """
    return _softmin(np.asarray(x, np.float64), 1.0)


def _softmin(x: Array, temperature: float) -> Array:
    if not (np.isfinite(temperature) and temperature > 0):
        raise RecipeError(f"temperature is {temperature}, expected a positive number")
    with np.errstate(over="ignore", under="ignore"):  # too far apart is weight 0
        weights = np.exp((x.min() - x) / temperature)
    return np.asarray(weights / weights.sum())


def standardize(distances: Array) -> Array:
    """Shift and scale to zero mean and unit (population) variance over the bank.

    Distances that are all equal, up to rounding, become zeros.

    Args:
        distances: (N,) finite.

    Returns:
        (N,) float64, dimensionless.

    Raises:
        BankError: there is no distance, or one is not finite.

    Example:
        >>> standardize(np.array([1.0, 3.0, 5.0])).round(4)
        array([-1.2247,  0.    ,  1.2247])
        >>> standardize(np.array([2.0, 2.0]))
        array([0., 0.])
    """
    d = _checked(distances)
    largest = np.abs(d).max()
    if not largest:
        return np.zeros_like(d)
    centered = d / largest
    centered -= centered.mean()
    spread = centered.std()
    return np.zeros_like(d) if spread <= 8 * np.finfo(np.float64).eps else centered / spread


def attentional(distances: Array, temperature: float) -> Array:
    """The paper's base version: ``c = softmin(d / T)`` [1].

    Sensitive to the distance's unit: near one-hot where distances are large (WD), near uniform
    where they are small (JS).

    Args:
        distances: (N,) finite, to every dataset of the bank.
        temperature: T, positive, in the unit of the distance; the paper has 1.

    Returns:
        (N,) float64 on the simplex.

    Raises:
        BankError: there is no distance, or one is not finite.
        RecipeError: the temperature is not positive.

    Example:
        >>> attentional(np.array([0.0, np.log(3)]), 1.0).round(4)
        array([0.75, 0.25])

    References:
        [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    """
    return _softmin(_checked(distances), temperature)


def normalized(distances: Array, temperature: float) -> Array:
    """The paper's normalized version: ``c = softmin(standardize(d) / T)`` [1].

    The published experiment standardizes a row of the bank's own N × N matrix with the
    self-distance 0 in it and masks that entry afterwards. A new dataset has no such entry: mean and
    variance are those of the N distances given. Equal distances give uniform weights.

    Args:
        distances: (N,) finite, to every dataset of the bank.
        temperature: T, positive, dimensionless; the paper has 1.

    Returns:
        (N,) float64 on the simplex.

    Raises:
        BankError: there is no distance, or one is not finite.
        RecipeError: the temperature is not positive.

    Example:
        >>> normalized(np.array([0.0, 2.0]), 1.0).round(4)  # e / (e + 1/e)
        array([0.8808, 0.1192])

    References:
        [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    """
    return _softmin(standardize(distances), temperature)


def neural(distances: Array, temperature: float, model: "NeuralModel") -> Array:
    """The paper's MLP version: ``c = softmin(g(standardize(d)) / T)``, one g for all i [1].

    Args:
        distances: (N,) finite, to every dataset of the bank.
        temperature: T, positive, dimensionless; the paper has 1.
        model: g, trained on the bank by `hf_lorameta.method.neural.fit_neural`.

    Returns:
        (N,) float64 on the simplex.

    Raises:
        BankError: there is no distance, or one is not finite.
        RecipeError: the temperature is not positive.

    Example:
        >>> zeros = {name: np.zeros(shape) for name, shape in NeuralModel.shapes(2).items()}
        >>> neural(np.array([0.0, 2.0]), 1.0, NeuralModel.from_arrays(zeros))
        array([0.5, 0.5])

    References:
        [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    """
    return _softmin(model(standardize(distances)), temperature)


KERNEL_WIDTH = 2.0
"""Of the kernel in `kernel`, in median distances between datasets of the bank."""
RIDGE = 0.06
"""Variance that `kernel` gives what a distance cannot explain, where all variance is 1."""


def kernel(distances: Array, between: Array, temperature: float) -> Array:
    """Kernel ridge regression of adapters on datasets, with the bank's mean as the prior.

    Adapters are seen as values of a Gaussian process over datasets with covariance
    ``k = exp(−d / (T w))``, w = 2 times the bank's median distance, and a common mean: the
    bank's. The expected adapter of the new dataset is then ``Σ c_i θ_i`` with
    ``a = (K + 0.06 I)^(-1) k`` and ``c = a + (1 − Σ a) / N`` [1, eq. 2.25 and 2.38]. Where nothing
    is near, a vanishes and the mean remains; of datasets that resemble each other, each counts
    for less.

    Args:
        distances: (N,) finite, to every dataset of the bank.
        between: (N, N) finite, among the bank's datasets.
        temperature: T, positive; below 1 only near datasets count.

    Returns:
        (N,) float64 that sum to one; some may be slightly negative.

    Raises:
        BankError: there is no distance, one is not finite, or the shapes differ.
        RecipeError: the temperature is not positive.

    Example:
        >>> apart = np.array([[0, 0.1, 1], [0.1, 0, 1], [1, 1, 0]])
        >>> kernel(np.array([0.5, 0.5, 0.2]), apart, 1.0).round(3)
        array([0.19 , 0.19 , 0.619])

    References:
        [1] Rasmussen, Williams, Gaussian Processes for Machine Learning, MIT Press, 2006.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise RecipeError(f"temperature is {temperature}, expected a positive number")
    d, D = _checked(distances), np.asarray(between, np.float64)
    if D.shape != (d.size, d.size) or not np.isfinite(D).all():
        raise BankError(f"distances in the bank have shape {D.shape}, expected {(d.size, d.size)}")
    others = D[~np.eye(d.size, dtype=bool)]
    width = temperature * KERNEL_WIDTH * float(np.median(others)) if others.size else 1.0
    if not width > 0:
        return np.full(d.size, 1 / d.size)
    K = np.exp(-(D + D.T) / (2 * width))
    a = np.linalg.solve(K + RIDGE * np.eye(d.size), np.exp(-d / width))
    return np.asarray(a + (1 - a.sum()) / d.size)


class CoefficientRule(NamedTuple):
    """A row of `COEFFICIENTS`: short name, title, and where the rule comes from."""

    name: str
    title: str
    reference: str


_PAPER = "arXiv 2507.01806"
COEFFICIENTS: dict[str, CoefficientRule] = {
    row.name: row
    for row in (
        CoefficientRule("attentional", "Softmin of the distances", _PAPER),
        CoefficientRule("normalized", "Softmin of the standardized distances", _PAPER),
        CoefficientRule("neural", "Softmin of a small network, fitted on the bank", _PAPER),
        CoefficientRule(
            "kernel",
            "Kernel ridge regression, the bank's mean as prior",
            "Rasmussen, Williams 2006",
        ),
    )
}
"""Every rule, by the name a recipe uses."""


def coefficients(
    distances: Array,
    rule: str,
    temperature: float = 1.0,
    k: int | None = None,
    model: NeuralModel | None = None,
    between: Array | None = None,
) -> Array:
    """Apply one rule, then keep the k largest.

    Args:
        distances: (N,) finite, to every dataset of the bank.
        rule: a key of `COEFFICIENTS`.
        temperature: T, positive.
        k: how many adapters to keep; None keeps all.
        model: for the rule ``neural``, the bank's fitted network.
        between: for the rule ``kernel``, the (N, N) distances inside the bank.

    Returns:
        (N,) float64 that sum to one.

    Raises:
        RecipeError: the rule is unknown, the temperature is not positive, or k is below 1.
        BankError: there is no distance, or one is not finite.
        BankError: the rule is ``neural`` and the bank has no fitted network.

    Example:
        >>> coefficients(np.array([0.0, 1.0, 9.0]), "attentional", k=1)
        array([1., 0., 0.])
    """
    if rule not in COEFFICIENTS:
        names = ", ".join(COEFFICIENTS)
        raise RecipeError(
            f"no coefficient rule is called {rule!r}", hint=f"--coefficients takes one of {names}"
        )
    if rule == "neural":
        if model is None:
            raise BankError("the bank has no fitted network for the rule neural", hint=FIT_HINT)
        weights = neural(distances, temperature, model)
    elif rule == "kernel":
        if between is None:
            raise BankError("the rule kernel needs the distances inside the bank")
        weights = kernel(distances, between, temperature)
    else:
        weights = (attentional if rule == "attentional" else normalized)(distances, temperature)
    return weights if k is None else top_k(weights, k)


def top_k(weights: Array, k: int) -> Array:
    """Keep the k weights largest in size, scaled to sum to one; of equal ones, the first.

    Args:
        weights: (N,) that sum to one.
        k: at least 1; N or more keeps all.

    Returns:
        (N,) float64 that sum to one, at most k of them other than 0.

    Raises:
        RecipeError: k is below 1, or what is kept sums to zero or less.

    Example:
        >>> top_k(np.array([0.2, 0.4, 0.2, 0.2]), 2).round(4)
        array([0.3333, 0.6667, 0.    , 0.    ])
    """
    if k < 1:
        raise RecipeError(f"top_k is {k}, expected at least 1")
    weights = np.asarray(weights, np.float64)
    kept = np.argsort(-np.abs(weights), kind="stable")[:k]
    if weights[kept].sum() <= 0:
        raise RecipeError(f"the {k} largest coefficients do not sum to more than 0")
    result = np.zeros_like(weights)
    result[kept] = weights[kept]
    return np.asarray(result / result.sum())


def effective_number(weights: Array) -> float:
    """How many adapters really take part: ``(Σ |c|)² / Σ c²``, Kish's effective sample size [1].

    N for uniform weights, 1 for one-hot; absolute values, should weights be negative.

    Args:
        weights: (N,) finite.

    Returns:
        Between 1 and N; 0 if every weight is 0.

    Example:
        >>> effective_number(np.array([0.5, 0.5, 0.0])), effective_number(np.zeros(2))
        (2.0, 0.0)

    References:
        [1] Kish, Survey Sampling, Wiley, 1965.
    """
    size = np.abs(np.asarray(weights, np.float64))
    largest = size.max(initial=0.0)
    if not largest:
        return 0.0
    with np.errstate(under="ignore"):
        size = size / largest
        return float(size.sum() ** 2 / (size**2).sum())


def _checked(distances: Array) -> Array:
    d = np.asarray(distances, np.float64)
    if d.ndim != 1 or not d.size:
        raise BankError(
            f"distances have shape {d.shape}, expected one for each adapter of the bank"
        )
    wrong = np.flatnonzero(~np.isfinite(d))
    if wrong.size:
        raise BankError(
            f"distance {wrong[0]} of {d.size} is {d[wrong[0]]}, expected a finite number"
        )
    return d


def largest_indices(c: Array, count: int) -> NDArray[np.intp]:
    """Places of the coefficients largest in size, `count` at most; of equal ones, the first.

    Example:
        >>> largest_indices(np.array([0.1, -0.5, 0.3]), 2)
        array([1, 2])
    """
    return np.argsort(-np.abs(c), kind="stable")[:count]
