"""Coefficients fitted on a few of the user's rows: no weight of the model or of any adapter moves.

A plan's coefficients c are where the fit starts. The loss of rows under ``ΔW = Σ c_i s_i B_i A_i``
has the gradient ``∂L/∂c_i = s_i ⟨∂L/∂ΔW, B_i A_i⟩``, summed over the modules, so one backward pass
and one reading of the bank, module by module, give all N of them; a large bank is never held in
memory.
Some of the rows are kept out of the fit; what is returned is the step that was best on those, which
may be the start itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_lorameta import adapter
from hf_lorameta.adapter import FloatArray
from hf_lorameta.bank import Bank
from hf_lorameta.errors import EmptyDatasetError, MissingExtraError
from hf_lorameta.pack import Space
from hf_lorameta.profile import Row
from hf_lorameta.scores import Tokens

Array = NDArray[np.float64]

STEPS = 4
STIFFNESS = (0.5, 0.1)
"""At the first and at the last step: what is known of few points is not to be trusted far away."""
HELD_OUT = 4
"""One row of so many is kept out of the fit."""
EVALUATIONS = 120
DIMENSIONS = 12
_LEAST_LOSS = 1e-4
_FAR_ODDS = 500.0
_FALL = 1.5
"""Exponent with which a point's weight falls with the square of its distance."""
_TOUCHING = 1e-3
"""Square of the distance at which a point is taken to be met."""
HELD = 1 << 30
"""Bytes of factors up to which a mixture keeps them in memory."""


class Scored(Protocol):
    """A base model with an update; `hf_lorameta.probe.Probe`, or another engine."""

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Rows as token ids."""
        ...

    def set(self, pairs: Iterator[tuple[FloatArray, FloatArray]]) -> None:
        """Make the given factors of every module the update."""
        ...

    def clear(self) -> None:
        """Be the base model itself."""
        ...

    def loss(self, tokens: Sequence[Tokens]) -> float:
        """Mean loss of the output tokens, in nats."""
        ...

    def gradient(self, tokens: Sequence[Tokens], mixture: "Mixture") -> tuple[float, Array]:
        """The same, and its (K,) derivatives by the coefficients of a mixture."""
        ...

    def log_odds(self, tokens: Sequence[Tokens]) -> Array:
        """``log p / (1 − p)`` of each output token, row after row."""
        ...


@dataclass(frozen=True)
class Refinement:
    """What a fit did. Losses are means over output tokens, in nats.

    Attributes:
        method: ``gradient`` or ``search``.
        rows: number of rows it was fitted on.
        held_out: number of rows that chose the step.
        base: loss of the base model on the held-out rows.
        start: of the coefficients it started from.
        end: of those it returned.
        steps: at which of the steps they were found.
        history: loss on the held-out rows, at the start and after every look.
    """

    method: str
    rows: int
    held_out: int
    base: float
    start: float
    end: float
    steps: int
    history: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """How an adapter did on rows it was not fitted on. Losses are as in `Refinement`.

    Attributes:
        rows: number of rows.
        base: loss of the base model.
        start: of the adapter as it was made.
        end: of the one that was kept.
        scale: what its coefficients were multiplied with; 1 if it was not drawn back, 0 if there is
            nothing left of it.
    """

    rows: int
    base: float
    start: float
    end: float
    scale: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class Summed(Protocol):
    """Something that is an update for any coefficients; `Mixture`, or a finished adapter."""

    def pairs(self, c: Array) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Factors of every module in turn."""
        ...


class Factors(NamedTuple):
    """One module of K adapters side by side, their scalings folded into B.

    Attributes:
        A: (Σr, in), or of a pack (Σr, R_a).
        B: (out, Σr), or of a pack (R_b, Σr).
        space: where the small factors of a pack lie.
    """

    A: FloatArray
    B: FloatArray
    space: Space | None


class Mixture:
    """The sum of a bank's adapters as a function of its coefficients.

    Memory: the factors in float32, if all of them take 1 GB (`HELD`) at most: those of SmolLM2's 43
    adapters take 55 MB. Of a larger bank one module's at a time, which is read anew for each sum
    and each gradient: of 502 adapters of Mistral-7B 230 MB of 19 GB. Of a pack these are the small
    factors and its spaces, and the K adapters are added up inside the space.

    Args:
        bank: of N adapters.
        used: the K of them that take part.

    Attributes:
        rank: Σr of the K adapters.
    """

    def __init__(self, bank: Bank, used: Sequence[int]) -> None:
        entries = [bank.index.entries[i] for i in used]
        self._bank = bank
        self._files = bank.adapters(entries)
        self._sizes = {module.name: module for module in bank.stored_layout}
        self._ranks = [entry.rank for entry in entries]
        scalings = [entry.scaling for entry in entries]
        self._scalings = np.repeat(scalings, self._ranks).astype(np.float32)
        self._starts = np.cumsum([0, *self._ranks])[:-1]
        self.rank = sum(self._ranks)
        self._held: dict[str, Factors] | None = {} if self._size() <= HELD else None

    def _size(self) -> int:
        """Bytes of all factors, and of the spaces of a pack, in float32."""
        layouts = zip(self._bank.layout, self._bank.stored_layout, strict=True)
        numbers = 0
        for whole, stored in layouts:
            numbers += self.rank * (stored.in_features + stored.out_features)
            if self._bank.basis is not None:
                numbers += stored.in_features * whole.in_features
                numbers += stored.out_features * whole.out_features
        return 4 * numbers

    def factors(self, module: str) -> Factors:
        """Everything about one module: from memory, or read now."""
        if self._held is None:
            return self._read(module)
        if module not in self._held:
            self._held[module] = self._read(module)
        return self._held[module]

    def _read(self, module: str) -> Factors:
        sizes = self._sizes[module]
        A = np.empty((self.rank, sizes.in_features), np.float32)
        B = np.empty((sizes.out_features, self.rank), np.float32)
        adapter.stack_into(self._files, module, A, B)
        B *= self._scalings
        basis = self._bank.basis
        return Factors(A, B, None if basis is None else basis.space(module))

    def pairs(self, c: Array) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Factors of the whole sum, (k, in) and (out, k), of every module in turn."""
        spread = np.repeat(c, self._ranks).astype(np.float32)
        for module in self._bank.layout:
            A, B, space = self.factors(module.name)
            weighted: FloatArray = B * spread
            yield (A, weighted) if space is None else (space.V, space.U @ (weighted @ A))

    def by_adapter(self, by_rank: Array) -> Array:
        """(Σr,) sums over each adapter's ranks: (K,)."""
        return np.add.reduceat(by_rank, self._starts)

    def gram(self) -> Array:
        """⟨B_i A_i, B_j A_j⟩ with their scalings, summed over the modules: (K, K)."""
        total = np.zeros((len(self._files), len(self._files)))
        for module in self._bank.layout:
            A, B, _ = self.factors(module.name)
            inner = ((A @ A.T) * (B.T @ B)).astype(np.float64)
            total += np.add.reduceat(np.add.reduceat(inner, self._starts, 0), self._starts, 1)
        return total


def split_rows(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows to fit on, and every fourth, which is kept out.

    Raises:
        EmptyDatasetError: fewer than four rows.

    Example:
        >>> fit, held_out = split_rows([("a", str(i)) for i in range(5)])
        >>> [o for _, o in fit], [o for _, o in held_out]
        (['1', '2', '3'], ['0', '4'])
    """
    if len(rows) < HELD_OUT:
        raise EmptyDatasetError(
            f"{len(rows)} rows to refine on, expected at least {HELD_OUT}",
            hint="leave out --refine, or name a dataset with more rows",
        )
    fit = [row for i, row in enumerate(rows) if i % HELD_OUT]
    return fit, [row for i, row in enumerate(rows) if not i % HELD_OUT]


Report = Callable[[int, int, float], None]


def refine(
    start: Array,
    mixture: Mixture,
    rows: Sequence[Row],
    scored: Scored,
    *,
    steps: int = STEPS,
    stiffness: tuple[float, float] = STIFFNESS,
    progress: Report = lambda step, steps, loss: None,
) -> tuple[Array, Refinement]:
    """Fit coefficients by gradients through the base model, with few of them: a Gauss-Newton fit.

    The loss ℓ_r of each row and its gradient are asked for apart. Between the points that were
    asked for, a row's log odds ``m_r = −log(exp(ℓ_r) − 1)`` are taken to be linear in c, each point
    counting by its nearness; this model of the loss, ``Σ_r n_r log(1 + exp(−m_r))``, costs nothing
    to minimise, and its minimum is the next point. Coordinates are those in which the adapters are
    alike in length and independent, ``c = c_0 + (G + λI)^(-1/2) u`` with their Gram matrix G, and
    ``|u|²`` is added, so that few rows do not move what they do not tell. No randomness.
    Coefficients may become negative and need not sum to one. Where the best of these is worse than
    the base model on the held-out rows, it is drawn back towards zero.

    Args:
        start: (K,) coefficients to start from.
        mixture: the K adapters they belong to.
        rows: at least 4 labelled rows of the user's; every fourth is held out.
        scored: holds the base model.
        steps: points that are asked for.
        stiffness: of ``|u|²``, in nats a token, at the first and at the last step; it falls by the
            same factor at each.
        progress: called at every point with (step, steps, loss on the held-out rows).

    Returns:
        (K,) coefficients, and how the fit went.

    Raises:
        EmptyDatasetError: fewer than 4 rows.
    """
    fit, directions, watch = _started(start, mixture, rows, scored, steps, progress)
    model, u = LossModel([len(row.output) for row in fit]), np.zeros(len(start))
    for step, stiff in enumerate(np.geomspace(*stiffness, steps), 1):
        found = [scored.gradient([row], mixture) for row in fit]  # at what the watch set
        slopes = np.stack([slope for _, slope in found]) @ directions
        model.add(u, np.array([loss for loss, _ in found]), slopes)
        u = model.minimum(float(stiff))
        watch.look(step, start + directions @ u)
    return watch.result("gradient", len(fit))


class LossModel:
    """The mean loss of some rows as a function of u, from losses and gradients at a few points.

    Args:
        sizes: number of output tokens of each of the R rows.

    Example:
        >>> model = LossModel([1, 1])
        >>> model.add(np.zeros(1), np.log([2, 2]), np.array([[-0.5], [0.25]]))
        >>> model.minimum(stiffness=0.0).round(2)
        array([0.84])
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._share = np.array(sizes) / sum(sizes)
        self._points: list[tuple[Array, Array, Array]] = []

    def add(self, u: Array, losses: Array, slopes: Array) -> None:
        """What was found at a point.

        Args:
            u: (K,) the point.
            losses: (R,) mean loss of each row's output tokens, in nats.
            slopes: (R, K) their gradients.
        """
        losses = np.maximum(losses, _LEAST_LOSS)
        odds = -np.log(np.expm1(losses))
        self._points.append((u, odds, -slopes / -np.expm1(-losses)[:, None]))

    def at(self, u: Array) -> tuple[float, Array]:
        """The modelled loss at u, in nats a token, and its (K,) gradient."""
        U, odds, slopes = (np.stack(of) for of in zip(*self._points, strict=True))
        away = u - U
        near = (away**2).sum(1) + _TOUCHING
        weights = near**-_FALL
        weights /= weights.sum()
        by_weight = -2 * _FALL * away / near[:, None]
        by_weight = weights[:, None] * (by_weight - weights @ by_weight)
        lines = odds + np.einsum("prk,pk->pr", slopes, away)  # each point's own guess
        m = weights @ lines
        by_u = np.einsum("p,prk->rk", weights, slopes) + lines.T @ by_weight
        wrong = self._share / (1 + np.exp(np.clip(m, -_FAR_ODDS, _FAR_ODDS)))
        return float(self._share @ np.logaddexp(0, -m)), -(wrong @ by_u)

    def minimum(self, stiffness: float) -> Array:
        """(K,) the u at which loss + stiffness |u|² is least, found from the last point on."""
        from scipy.optimize import minimize

        def stiff(u: Array) -> tuple[float, Array]:
            loss, slope = self.at(u)
            return loss + stiffness * float(u @ u), slope + 2 * stiffness * u

        options = {"maxiter": 300}
        found = minimize(stiff, self._points[-1][0], jac=True, method="L-BFGS-B", options=options)
        return np.asarray(found.x, np.float64)


def _started(
    start: Array,
    mixture: Mixture,
    rows: Sequence[Row],
    scored: Scored,
    steps: int,
    progress: Report,
) -> tuple[list[Tokens], Array, "_Watch"]:
    """The rows to fit on, the directions to move in, and the watch, which has seen the start."""
    fit, held_out = (scored.encode(part) for part in split_rows(rows))
    watch = _Watch(mixture, scored, held_out, steps, progress)
    watch.look(0, start)
    return fit, _whitening(mixture.gram()), watch


def _whitening(gram: Array) -> Array:
    """``(G / mean G_ii + 0.1 I)^(-1/2)``, symmetric."""
    scaled = gram / max(float(np.mean(np.diag(gram))), np.finfo(np.float64).tiny)
    values, vectors = np.linalg.eigh(scaled)
    return np.asarray((vectors / np.sqrt(np.maximum(values, 0) + 0.1)) @ vectors.T)


class _Watch:
    """Keeps the coefficients that were best on the held-out rows."""

    def __init__(
        self,
        mixture: Mixture,
        scored: Scored,
        held_out: Sequence[Tokens],
        steps: int,
        progress: Report,
    ) -> None:
        self._mixture, self._scored, self._held_out = mixture, scored, held_out
        self._steps, self._progress = steps, progress
        self._history: list[float] = []
        self._best: tuple[float, int, Array] = (np.inf, 0, np.zeros(0))

    def look(self, step: int, c: Array) -> float:
        """Score c on the held-out rows."""
        self._scored.set(self._mixture.pairs(c))
        loss = self._scored.loss(self._held_out)
        self._history.append(loss)
        self._progress(step, self._steps, loss)
        if loss < self._best[0]:
            self._best = (loss, step, c)
        return loss

    def result(self, method: str, fitted: int) -> tuple[Array, Refinement]:
        """The best coefficients, drawn back where the base model alone is better."""
        self._scored.clear()
        base = self._scored.loss(self._held_out)
        loss, step, c = self._best
        scale, loss = drawn_back(c, loss, base, self._mixture, self._scored, self._held_out)
        report = Refinement(
            method,
            fitted,
            len(self._held_out),
            base,
            self._history[0],
            loss,
            step,
            tuple(self._history),
        )
        return scale * c, report


def drawn_back(
    c: Array,
    loss: float,
    base: float,
    mixture: Summed,
    scored: Scored,
    held_out: Sequence[Tokens],
) -> tuple[float, float]:
    """Halve coefficients until the held-out rows are not worse than under the base model.

    Args:
        c: (K,) coefficients.
        loss: of the held-out rows under c.
        base: of the held-out rows under the base model.
        mixture: the K adapters.
        scored: holds the base model.
        held_out: rows as token ids.

    Returns:
        What c is to be multiplied with, 1 to 1/8, or 0 where even that is worse; and its loss.
    """
    scale = 1.0
    while loss > base:
        scale /= 2
        if scale < 1 / 8:
            return 0.0, base
        scored.set(mixture.pairs(scale * c))
        loss = scored.loss(held_out)
    return scale, loss


def check(summed: Summed, scored: Scored, rows: Sequence[Tokens]) -> Check:
    """Compare an adapter with its base model, and draw it back where it is worse.

    Args:
        summed: the adapter for a single coefficient, which is 1 as it was made.
        scored: holds the base model.
        rows: as token ids, at least one.
    """
    whole = np.ones(1)
    scored.clear()
    base = scored.loss(rows)
    scored.set(summed.pairs(whole))
    start = scored.loss(rows)
    scale, end = drawn_back(whole, start, base, summed, scored, rows)
    return Check(len(rows), base, start, end, scale)


def search(
    start: Array,
    mixture: Mixture,
    rows: Sequence[Row],
    scored: Scored,
    *,
    evaluations: int = EVALUATIONS,
    dimensions: int = DIMENSIONS,
    progress: Report = lambda step, steps, loss: None,
) -> tuple[Array, Refinement]:
    """Fit coefficients where only a forward pass is to be had, by CMA-ES [1].

    The search space is that of `refine`, kept to the adapters with the largest coefficients at the
    start: with few evaluations, more dimensions find less. Deterministic.

    Args:
        start: (K,) coefficients to start from.
        mixture: the K adapters they belong to.
        rows: at least 4 labelled rows of the user's; every fourth is held out.
        scored: holds the base model.
        evaluations: forward passes over the rows at most.
        dimensions: number of adapters whose coefficients move.
        progress: called after every generation, as in `refine`.

    Returns:
        (K,) coefficients, and how the fit went; its steps are evaluations.

    Raises:
        MissingExtraError: the package cma is not installed.
        EmptyDatasetError: fewer than 4 rows.

    References:
        [1] Hansen, The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772, 2016.
    """
    cma = _cma()
    fit, directions, watch = _started(start, mixture, rows, scored, evaluations, progress)
    moved = np.argsort(-np.abs(start), kind="stable")[:dimensions]
    directions = directions[:, moved]

    def loss(u: Array) -> float:
        scored.set(mixture.pairs(start + directions @ u))
        return scored.loss(fit)

    options = {"seed": 1, "verbose": -9, "maxfevals": evaluations}
    strategy = cma.CMAEvolutionStrategy(np.zeros(len(moved)), 0.3, options)
    while not strategy.stop():
        asked = strategy.ask()
        strategy.tell(asked, [loss(np.asarray(u)) for u in asked])
        centre = start + directions @ np.asarray(strategy.mean)
        watch.look(int(strategy.countevals), centre)
    return watch.result("search", len(fit))


def _cma() -> Any:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it could not draw anything
            import cma
    except ImportError:
        raise MissingExtraError(
            "the refiner search needs cma, which is not installed",
            hint="pip install 'hf-lorameta[eval]'",
        ) from None
    return cma


Refiner = Callable[..., tuple[Array, Refinement]]
REFINERS: dict[str, Refiner] = {"gradient": refine, "search": search}
"""Ways to fit, by the name a recipe uses."""
