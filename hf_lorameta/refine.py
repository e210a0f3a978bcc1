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

STEPS = 20
LEARNING_RATE = 0.1
HELD_OUT = 4
"""One row of so many is kept out of the fit."""
EVALUATIONS = 120
DIMENSIONS = 12
_LOOK = 4
"""Steps between two looks at the held-out rows."""
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
    learning_rate: float = LEARNING_RATE,
    progress: Report = lambda step, steps, loss: None,
) -> tuple[Array, Refinement]:
    """Fit coefficients by gradient descent through the base model.

    Adam moves the coefficients in coordinates in which the adapters are alike in length and
    independent, ``c = c_0 + (G + λI)^(-1/2) u`` with their Gram matrix G, full batch, without any
    randomness. Coefficients may become negative and need not sum to one. Where the best of these
    is worse than the base model on the held-out rows, it is drawn back towards zero.

    Args:
        start: (K,) coefficients to start from.
        mixture: the K adapters they belong to.
        rows: at least 4 labelled rows of the user's; every fourth is held out.
        scored: holds the base model.
        steps: of the optimizer.
        learning_rate: of Adam.
        progress: called at every look with (step, steps, loss on the held-out rows).

    Returns:
        (K,) coefficients, and how the fit went.

    Raises:
        EmptyDatasetError: fewer than 4 rows.
    """
    fit, directions, watch = _started(start, mixture, rows, scored, steps, progress)
    u, mean, square = np.zeros_like(start), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, steps + 1):
        scored.set(mixture.pairs(start + directions @ u))
        slope = directions @ scored.gradient(fit, mixture)[1]
        mean = 0.9 * mean + 0.1 * slope
        square = 0.95 * square + 0.05 * slope**2
        rate = learning_rate * min(1.0, step / 3) * (1 - 0.8 * (step - 1) / steps)
        unbiased = np.sqrt(square / (1 - 0.95**step)) + 1e-8
        u = u - rate * (mean / (1 - 0.9**step)) / unbiased
        if step % _LOOK == 0 or step == steps:
            watch.look(step, start + directions @ u)
    return watch.result("gradient", len(fit))


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
