"""Coefficients: the weight of every adapter in the new one, computed from distances.

A rule returns (N,) float64. Those of the paper [1] are on the simplex, ``c ≥ 0`` and ``Σ c = 1``,
through ``softmin(x)_i = exp(−x_i) / Σ_j exp(−x_j)``. A temperature T divides the exponents: below 1
is sharper, above 1 flatter. `COEFFICIENT_RULES` in `registries.py` lists the rules.

References:
    [1] Arabpour, Sáez de Ocáriz Borde, Kratsios, arXiv 2507.01806, 2025.
    [2] Rasmussen, Williams, Gaussian Processes for Machine Learning, MIT Press, 2006.
    [3] Kish, Survey Sampling, Wiley, 1965.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_lorameta.errors import BankError, RecipeError
from hf_lorameta.method.registries import COEFFICIENT_RULES
from hf_lorameta.types import Array

KERNEL_WIDTH = 2.0
"""Width of the covariance in `kernel`, in median distances between datasets of the bank."""
RIDGE = 0.06
"""Noise variance in `kernel`, relative to the variance of adapters."""

# --- helpers of the rules ------------------------------------------------------------------------


def softmin(x: Array, temperature: float = 1.0) -> Array:
    """``exp(−x_i / T) / Σ_j exp(−x_j / T)``: (N,) finite → (N,) on the simplex, without overflow.

    Example:
        >>> softmin(np.array([0.0, np.log(3)])).round(4)
        array([0.75, 0.25])
    """
    with np.errstate(over="ignore", under="ignore"):  # a weight that underflows is 0
        weights = np.exp((x.min() - x) / temperature)
    return np.asarray(weights / weights.sum())


def standardize(distances: Array) -> Array:
    """Shift and scale (N,) distances to zero mean and unit (population) variance.

    Distances that are all equal, up to rounding, become zeros.

    Example:
        >>> standardize(np.array([1.0, 3.0, 5.0])).round(4)
        array([-1.2247,  0.    ,  1.2247])
        >>> standardize(np.array([2.0, 2.0]))
        array([0., 0.])
    """
    d = np.asarray(distances, np.float64)
    centered = d - d.mean()
    rounding = 8 * np.finfo(np.float64).eps * np.abs(d).max()
    return np.zeros_like(d) if d.std() <= rounding else centered / d.std()


# --- the rules -----------------------------------------------------------------------------------


def _not_given() -> Any:
    raise BankError(
        "the coefficient rule needs more than the distances",
        code="coefficients.need-more-than-distances",
    )


@dataclass(frozen=True, eq=False)
class RuleInputs:
    """The inputs of a coefficient rule; the functions among them are called only if needed.

    Attributes:
        distances: (N,) d, from the new dataset to every dataset of the bank.
        temperature: T; the paper has 1.
        bank_distances: returns the (N, N) distances inside the bank.
        model: returns the bank's trained network, which maps (N,) to (N,).
        general: whether the bank has a general adapter, whose coefficient is one minus the sum of
            the others.
        median: median distance inside the bank, if `bank_distances` covers candidates only; None
            computes it from `bank_distances`.
    """

    distances: Array
    temperature: float = 1.0
    bank_distances: Callable[[], Array] = _not_given
    model: Callable[[], Callable[[Array], Array]] = _not_given
    general: bool = False
    median: float | None = None


def attentional(inputs: RuleInputs) -> Array:
    """The paper's base version: ``c = softmin(d / T)`` [1], T in the unit of the distance.

    Sensitive to that unit: near one-hot if distances are large (WD), near uniform if they are small
    (JS).

    Example:
        >>> attentional(RuleInputs(np.array([0.0, np.log(3)]))).round(4)
        array([0.75, 0.25])
    """
    return softmin(inputs.distances, inputs.temperature)


def normalized(inputs: RuleInputs) -> Array:
    """The paper's normalized version: ``c = softmin(standardize(d) / T)`` [1], T dimensionless.

    The published experiment standardizes a row of the bank's own N × N matrix, including the
    self-distance 0, and masks that entry afterwards. A new dataset has no such entry: mean and
    variance are those of the N distances given. Equal distances give uniform weights.

    Example:
        >>> normalized(RuleInputs(np.array([0.0, 2.0]))).round(4)  # e / (e + 1/e)
        array([0.8808, 0.1192])
    """
    return softmin(standardize(inputs.distances), inputs.temperature)


def neural(inputs: RuleInputs) -> Array:
    """The paper's MLP version: ``c = softmin(g(standardize(d)) / T)`` [1], T dimensionless.

    The network g is the same for all d_i, trained by `hf_lorameta.method.neural.train_neural`.

    Raises:
        BankError: the bank has no trained network.

    Example:
        >>> neural(RuleInputs(np.array([0.0, 2.0]), model=lambda: np.zeros_like))
        array([0.5, 0.5])
    """
    return softmin(inputs.model()(standardize(inputs.distances)), inputs.temperature)


def kernel(inputs: RuleInputs) -> Array:
    """Kernel ridge regression of adapters on datasets, with the general adapter as the prior.

    Adapters are modeled as values of a Gaussian process over datasets with covariance
    ``k = exp(−d / (T w))``, w = 2 times the bank's median distance, and the bank's general adapter
    as its mean. The expected adapter of the new dataset is then ``θ + Σ a_i (θ_i − θ)`` with
    ``a = (K + 0.06 I)^(-1) k`` [2, eq. 2.25 and 2.38]. If no dataset is near, a vanishes and the
    general adapter remains; similar datasets share their weight. In a bank without a general
    adapter, the mean of all takes its place: ``c = a + (1 − Σ a) / N``. With T below 1 only nearer
    datasets count. Some coefficients may be slightly negative. In a large bank, the N adapters are
    the candidates.

    Example:
        >>> D = np.array([[0, 0.1, 1], [0.1, 0, 1], [1, 1, 0]])
        >>> kernel(RuleInputs(np.array([0.5, 0.5, 0.2]), bank_distances=lambda: D)).round(3)
        array([0.19 , 0.19 , 0.619])
    """
    d, D = inputs.distances, np.asarray(inputs.bank_distances(), np.float64)
    others = D[~np.eye(d.size, dtype=bool)]
    median = inputs.median
    if median is None:
        median = float(np.median(others)) if others.size else None
    width = 1.0 if median is None else inputs.temperature * KERNEL_WIDTH * median
    if width == 0:
        return np.full(d.size, 1 / d.size)
    with np.errstate(over="ignore", under="ignore"):  # infinitely many widths away: exp(−∞) is 0
        K, k = np.exp(-(D + D.T) / (2 * width)), np.exp(-d / width)
    a = np.linalg.solve(K + RIDGE * np.eye(d.size), k)
    return np.asarray(a if inputs.general else a + (1 - a.sum()) / d.size)


@dataclass(frozen=True, eq=False)
class Coefficients:
    """What an adapter is combined of.

    Attributes:
        adapters: (N,) of the bank's adapters.
        general: of its general adapter; None if it has none.
        output_prior: of the output prior; None if it does not take part.
    """

    adapters: Array
    general: float | None = None
    output_prior: float | None = None

    def scaled(self, factor: float) -> "Coefficients":
        """Return all of them times a factor.

        Example:
            >>> Coefficients(np.array([0.5]), 1.0).scaled(2.0)
            Coefficients(adapters=array([1.]), general=2.0, output_prior=None)
        """
        general, prior = self.general, self.output_prior
        return Coefficients(
            factor * self.adapters,
            None if general is None else factor * general,
            None if prior is None else factor * prior,
        )


def apply_rule(name: str, inputs: RuleInputs, k: int | None = None) -> Coefficients:
    """Apply a rule of `COEFFICIENT_RULES`, then `top_k`; None keeps all coefficients.

    Returns:
        The coefficients of the adapters; that of a general adapter is one minus their sum.

    Raises:
        RecipeError: as for `top_k`.
        BankError: the rule needs something that the bank lacks.

    Example:
        >>> apply_rule("attentional", RuleInputs(np.array([0.0, 1.0, 9.0])), k=1).adapters
        array([1., 0., 0.])
    """
    weights = COEFFICIENT_RULES[name].function(inputs)
    if k is not None and weights.any():
        weights = weights.sum() * top_k(weights, k)
    if not inputs.general:
        return Coefficients(weights)
    left = float(1 - weights.sum())
    return Coefficients(weights, 0.0 if abs(left) < 1e-12 else left)  # not rounding errors


# --- the length scale ----------------------------------------------------------------------------


def length_scale(length: float, bank_lengths: Array) -> float:
    """Return the factor of all coefficients for outputs of a mean length.

    An adapter that was trained on short outputs helps with the first tokens of a long output and
    harms the later ones. All coefficients are therefore multiplied by ``s = min(1, √(l / L))``, l
    being the geometric mean of the lengths of the bank. How it was chosen:
    ``hf_lorameta/method/README.md``.

    Args:
        length: L, in tokens, positive.
        bank_lengths: mean length of the outputs of every dataset of the bank, in tokens.

    Returns:
        s, in (0, 1].

    Example:
        >>> bank = np.array([2, 32])
        >>> length_scale(4, bank), round(length_scale(32, bank), 3)
        (1.0, 0.5)
    """
    typical = math.exp(float(np.log(bank_lengths).mean()))
    return min(1.0, math.sqrt(typical / length))


# --- selection -----------------------------------------------------------------------------------


def top_k(weights: Array, k: int) -> Array:
    """Keep the k weights of largest magnitude, scaled to sum to one; of equal ones, the first.

    Raises:
        RecipeError: the remaining weights do not sum to a positive number.

    Example:
        >>> top_k(np.array([0.2, 0.4, 0.2, 0.2]), 2).round(4)
        array([0.3333, 0.6667, 0.    , 0.    ])
    """
    weights = np.asarray(weights, np.float64)
    largest = np.argsort(-np.abs(weights), kind="stable")[:k]
    if weights[largest].sum() <= 0:
        raise RecipeError(
            f"the {k} largest coefficients do not sum to more than 0",
            code="coefficients.sum-to-zero",
        )
    result = np.zeros_like(weights)
    result[largest] = weights[largest]
    return np.asarray(result / result.sum())


def effective_number(weights: Array) -> float:
    """Number of adapters that contribute: ``(Σ |c|)² / Σ c²``, Kish's effective sample size [3].

    N for uniform weights, 1 for one-hot weights, 0 if every weight is 0.

    Example:
        >>> effective_number(np.array([0.5, 0.5, 0.0])), effective_number(np.zeros(2))
        (2.0, 0.0)
    """
    total = np.abs(weights).sum()
    return float(total**2 / np.square(weights).sum()) if total else 0.0
