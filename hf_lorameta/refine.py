"""Coefficients fitted on a few of the user's rows: no weight of the model or of any adapter moves.

A plan's coefficients c are where the fit starts. The loss of rows under ``ΔW = Σ c_i s_i B_i A_i``
has the gradient ``∂L/∂c_i = s_i ⟨∂L/∂ΔW, B_i A_i⟩`` in each module, so a backward pass gives those
of all adapters, while the bank is read module by module; a large one is never held in memory. As
the gradients of the modules come apart, each module may have coefficients of its own, as every
layer has in AdaMerging [1]. How far modules may go apart, and how much of the way is gone in the
end, is decided by cross-validation, each row held out once.

References:
    [1] Yang et al., AdaMerging: Adaptive Model Merging for Multi-Task Learning, arXiv 2310.02575.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.adapter import FloatArray
from hf_lorameta.directions import TOGETHER, Directions
from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.loss_model import LossModel, log_odds
from hf_lorameta.mixture import Mixture
from hf_lorameta.profile import Row
from hf_lorameta.scores import Tokens

Array = NDArray[np.float64]

STEPS = 8
ENOUGH = 0.02
"""Nats a token: where no more is expected of another point, `refine` asks for none."""
FOLDS = 4
"""Every fourth row is held out together."""
DIMENSIONS = 32
STEPS_OF_SEARCH = 6
STIFFNESS = 0.01
"""What `refine` adds to the loss is this times |u|²."""
STIFFNESS_OF_SEARCH = 0.1
LITTLE, MUCH = 1.0, 4.0
"""How far modules may go apart, see `Directions`."""
PLENTY, UNTOUCHED = 0.4, 0.7
"""Nats a token, and a share of the base model's loss; see `spread`."""
BEND = 2.0
"""Of `hf_lorameta.loss_model.LossModel`, until there is a second point."""
_LEAST_WAY = 1e-12


class Summed(Protocol):
    """Something that is an update for any coefficients; `Mixture`, or a finished adapter."""

    @property
    def linear(self) -> bool:
        """Whether the update is the sum of those of its coefficients one by one."""
        ...

    def pairs(self, c: Array) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Factors of every module in turn, (k, in) and (out, k).

        Args:
            c: (K,) coefficients; where it is a `Mixture`, (M, K) too.
        """
        ...


class Scored(Protocol):
    """A base model with an update: `hf_lorameta.probe.Probe`, or llama.cpp's."""

    @property
    def engine(self) -> str:
        """What runs it, as a card says it."""
        ...

    @property
    def reach(self) -> float:
        """How far `search` goes along an axis for a slope: beyond rounding, hardly bent."""
        ...

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Rows as token ids."""
        ...

    def set(self, summed: Summed, c: Array) -> None:
        """Make a sum with these coefficients, as its `pairs` takes them, the update."""
        ...

    def clear(self) -> None:
        """Be the base model itself."""
        ...

    def loss(self, tokens: Sequence[Tokens]) -> float:
        """Mean loss of the output tokens, in nats."""
        ...

    def log_odds(self, tokens: Sequence[Tokens]) -> Array:
        """``log p / (1 − p)`` of each output token, row after row."""
        ...


class Differentiated(Scored, Protocol):
    """One that can tell slopes, too."""

    def gradient(self, tokens: Sequence[Tokens], mixture: "Mixture") -> tuple[Array, Array]:
        """(R,) losses of the rows apart, and their (R, M, K) derivatives by the coefficients."""
        ...


@dataclass(frozen=True)
class Refinement:
    """What a fit did. Losses are means over the rows' output tokens, in nats.

    Attributes:
        method: ``gradient`` or ``search``.
        rows: number of rows it was fitted on.
        base: their loss under the base model.
        start: with the coefficients it started from.
        end: with those it returned.
        held_out: what rows lose with coefficients fitted on the others by the fit's last model of
            the loss, each row held out once, after as much of the way as was gone; the loss at the
            start if that is where it stayed. Hopeful: all rows had a say in where the model's
            points lie and in how much of the way is gone.
        steps: how many points were asked for, those for slopes alone included; the last point and
            held-out rows come on top.
        history: loss of the rows at the start, at every point on the way, and at the last.
        engine: what ran the base model.
        by_module: whether each adapted module has coefficients of its own.
    """

    method: str
    rows: int
    base: float
    start: float
    end: float
    held_out: float
    steps: int
    history: tuple[float, ...]
    engine: str = "transformers"
    by_module: bool = False

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
        engine: what ran the base model.
    """

    rows: int
    base: float
    start: float
    end: float
    scale: float
    engine: str = "transformers"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


Report = Callable[[int, int, float], None]


def refine(
    start: Array,
    mixture: Mixture,
    rows: Sequence[Row],
    scored: Differentiated,
    *,
    steps: int = STEPS,
    progress: Report = lambda step, steps, loss: None,
) -> tuple[Array, Refinement]:
    """Fit coefficients by gradients through the base model, with few of them: a Gauss-Newton fit.

    The loss of each row and its gradient are asked for apart, which makes a model of the loss
    (`hf_lorameta.loss_model`); its minimum is the next point to ask for, until less than 0.02 nats
    a token are expected of it. Coordinates u are those in which the adapters are alike in length
    and independent, see `Directions`, and ``0.01 |u|²`` is added, so that few rows do not move what
    they do not tell. How far modules may go apart is decided by what held-out rows lose, as far as
    the slopes at the start can tell, before any row was fitted; see `spread`. No randomness.
    Coefficients may become negative and need not sum to one. Where the result is worse than the
    start, on the rows or on rows that are held out, half of the way is gone, or a quarter, or none;
    where that is worse than the base model, it is drawn back towards zero.

    Args:
        start: (K,) coefficients to start from.
        mixture: the K adapters they belong to, of M modules.
        rows: at least 4 labelled rows of the user's.
        scored: holds the base model.
        steps: points that are asked for at most.
        progress: called at every point with (step, steps + 1 for the last, loss of the rows).

    Returns:
        (K,) coefficients, or (M, K) if modules went apart; and how the fit went.

    Raises:
        EmptyDatasetError: fewer than 4 rows.
    """
    fit = _Fit(start, mixture, rows, scored, steps, STIFFNESS, progress)
    model, u = LossModel(fit.sizes, BEND), np.zeros(0)
    for step in range(steps):
        fit.go(u)
        losses, slopes = scored.gradient(fit.tokens, mixture)
        fit.saw(u, float(losses @ fit.sizes / sum(fit.sizes)))
        if step == 0:
            fit.widen(losses, slopes)
            u = np.zeros(fit.directions.dimensions)
        model.add(u, *log_odds(losses, fit.directions.slopes(slopes)))
        u = fit.minimum(model)
        if fit.best[0] - model.at(u)[0] < ENOUGH:
            break
    return fit.result("gradient", u, model, fit.folds)


class _Fit:
    """What both ways to fit share: the rows, the coordinates, and what was seen on the way."""

    def __init__(
        self,
        start: Array,
        mixture: Mixture,
        rows: Sequence[Row],
        scored: Scored,
        steps: int,
        stiffness: float,
        progress: Report,
    ) -> None:
        if len(rows) < FOLDS:
            raise EmptyDatasetError(
                f"{len(rows)} rows to refine on, expected at least {FOLDS}",
                hint="leave out --refine, or name a dataset with more rows",
            )
        self.tokens = scored.encode(rows)
        self.sizes = [len(row.output) for row in self.tokens]
        self.folds = np.arange(len(rows)) % FOLDS
        self.directions = Directions(np.zeros((len(start), 0)), TOGETHER)  # none but the start
        self._start, self._mixture, self._scored = start, mixture, scored
        self._steps, self._stiffness, self._progress = steps, stiffness, progress
        self._done = 0
        self._seen: list[tuple[float, Array]] = []

    def keep_to(self, moved: NDArray[np.intp]) -> None:
        """Let only some of the coefficients move, the same way in all modules."""
        grams = self._mixture.grams(moved.tolist())
        together = np.zeros((len(self._start), len(moved)))
        together[moved] = Directions.of(grams.sum(0, keepdims=True)).together
        self.directions = Directions(together, TOGETHER)

    def widen(self, losses: Array, slopes: Array) -> None:
        """Let modules go as far apart as serves held-out rows, by what is known at the start.

        Args:
            losses: (R,) of the rows at the start.
            slopes: (R, M, K) theirs.
        """
        directions = Directions.of(self._mixture.grams())
        start = float(losses @ self.sizes) / sum(self.sizes)
        held_out = [
            self._held_out(directions.widened(by), losses, slopes) for by in (0.0, LITTLE, MUCH)
        ]
        self.directions = directions.widened(spread(self.base, start, *held_out))

    def _held_out(self, directions: Directions, losses: Array, slopes: Array) -> float:
        """Mean loss of the rows, each fold with what a model from one point makes of the others."""
        model = LossModel(self.sizes, BEND)
        model.add(np.zeros(directions.dimensions), *log_odds(losses, directions.slopes(slopes)))
        each = ((self.folds != fold, self.folds == fold) for fold in range(FOLDS))
        return sum(model.at(self.minimum(model, others), held)[0] for others, held in each)

    @cached_property
    def base(self) -> float:
        """Loss of all rows under the base model."""
        self._scored.clear()
        return self._scored.loss(self.tokens)

    @property
    def best(self) -> tuple[float, Array]:
        """Loss of all rows at the best point so far, and that point."""
        return min(self._seen, key=lambda seen: seen[0])

    def at(self, u: Array) -> Array:
        """The coefficients that belong to u: (K,), or (M, K) where modules go apart."""
        return self._start + self.directions.change(u)

    def minimum(self, model: LossModel, texts: NDArray[np.bool_] | None = None) -> Array:
        """Where to go next, as a model has it."""
        return model.minimum(self._stiffness, texts)

    def go(self, u: Array) -> None:
        """Let the base model have the update that belongs to u."""
        self._scored.set(self._mixture, self.at(u))

    def saw(self, u: Array, loss: float, probing: bool = False) -> None:
        """Note a loss of all rows, as a point of the way unless it was for a slope alone."""
        if not probing:
            self._seen.append((loss, u))
        self._done += 1
        self._progress(self._done, self._steps + 1, loss)  # a last point follows those asked for

    def result(
        self, method: str, u: Array, model: LossModel, folds: NDArray[np.intp]
    ) -> tuple[Array, Refinement]:
        """The best of all points, or of the way there; drawn back where the base is better.

        Args:
            method: for the report.
            u: the last point, not asked for yet.
            model: of the loss, as it led there.
            folds: of the texts of the model.
        """
        asked = self._done
        self.go(u)
        self.saw(u, self._scored.loss(self.tokens))
        loss, c, held_out = self._kept(model, folds)
        scale, end = drawn_back(c, loss, self.base, self._mixture, self._scored, self.tokens)
        report = Refinement(
            method=method,
            rows=len(self.tokens),
            base=self.base,
            start=self._seen[0][0],
            end=end,
            held_out=held_out,
            steps=asked,
            history=tuple(loss for loss, _ in self._seen),
            engine=self._scored.engine,
            by_module=c.ndim > 1,
        )
        self._scored.clear()
        return scale * c, report

    def _kept(self, model: LossModel, folds: NDArray[np.intp]) -> tuple[float, Array, float]:
        """The most of the way to the best point that serves held-out rows, or the start.

        What the model says of a fold's minimum was never asked for, and can be too far away.

        Returns:
            Loss of the rows, coefficients, and loss of held-out rows.
        """
        start, (loss, u) = self._seen[0][0], self.best
        if loss < start:
            ways = [self.minimum(model, folds != fold) for fold in range(FOLDS)]
            for share in (1.0, 0.5, 0.25):
                held_out = self._crossed([share * way for way in ways])
                if held_out < start and share < 1:
                    self.go(share * u)
                    loss = self._scored.loss(self.tokens)
                if held_out < start and loss < start:
                    return loss, self.at(share * u), held_out
        return start, self._start, start

    def _crossed(self, ways: Sequence[Array]) -> float:
        """Mean loss of the rows, each fold at a point of its own."""
        total = 0.0
        for fold, u in enumerate(ways):
            self.go(u)
            held = np.flatnonzero(self.folds == fold)
            loss = self._scored.loss([self.tokens[i] for i in held])
            total += loss * sum(self.sizes[i] for i in held)
        return total / sum(self.sizes)


def spread(base: float, start: float, together: float, little: float, much: float) -> float:
    """How far modules may go apart, by what held-out rows lose. Losses are in nats a token.

    A little costs nothing, so it need not gain. Far apart, 16 rows can be met that say nothing of
    others; it has to gain `PLENTY`, or, where the bank has not brought much yet that could be lost,
    as much again as all before it.

    Args:
        base: of the base model.
        start: before any step.
        together: after one with modules together.
        little: with modules as far apart as `LITTLE`.
        much: as `MUCH`.

    Example:
        >>> spread(4.0, 3.0, 2.8, 2.8, 2.5), spread(9.0, 3.0, 2.8, 2.8, 2.5)
        (4.0, 1.0)
    """
    before = min(start, together, little)
    again = max(start - before, ENOUGH) if start > UNTOUCHED * base else PLENTY
    if before - much >= min(again, PLENTY):
        return MUCH
    return LITTLE if little - together <= ENOUGH else 0.0


def drawn_back(
    c: Array,
    loss: float,
    base: float,
    mixture: Summed,
    scored: Scored,
    rows: Sequence[Tokens],
) -> tuple[float, float]:
    """Halve coefficients until rows are not worse than under the base model.

    Args:
        c: coefficients, of any shape that the mixture takes.
        loss: of the rows under c.
        base: of the rows under the base model.
        mixture: the K adapters.
        scored: holds the base model.
        rows: as token ids.

    Returns:
        What c is to be multiplied with, 1 to 1/8, or 0 where even that is worse; and its loss.
    """
    scale = 1.0
    while loss > base:
        scale /= 2
        if scale < 1 / 8:
            return 0.0, base
        scored.set(mixture, scale * c)
        loss = scored.loss(rows)
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
    scored.set(summed, whole)
    start = scored.loss(rows)
    scale, end = drawn_back(whole, start, base, summed, scored, rows)
    return Check(len(rows), base, start, end, scale, scored.engine)


def search(
    start: Array,
    mixture: Mixture,
    rows: Sequence[Row],
    scored: Scored,
    *,
    dimensions: int = DIMENSIONS,
    steps: int = STEPS_OF_SEARCH,
    progress: Report = lambda step, steps, loss: None,
) -> tuple[Array, Refinement]:
    """Fit coefficients where only a forward pass is to be had: a Gauss-Newton fit by differences.

    The same fit as `refine`, with the log odds of every single output token. Their slopes come from
    one forward pass an adapter, for the adapters with the largest coefficients at the start; the
    points that follow cost one each, and correct the slopes along the way they were reached [1].

    Args:
        start: (K,) coefficients to start from.
        mixture: the K adapters they belong to.
        rows: at least 4 labelled rows of the user's.
        scored: holds the base model.
        dimensions: number of adapters whose coefficients move, at most.
        steps: points after those.
        progress: called as in `refine`; its steps are forward passes over the rows, 1 + dimensions
            + steps of them and the last point.

    Returns:
        (K,) coefficients, and how the fit went.

    Raises:
        EmptyDatasetError: fewer than 4 rows.

    References:
        [1] Broyden, A Class of Methods for Solving Nonlinear Simultaneous Equations, Math. Comp.
            19, 1965.
    """
    moved = largest(start, dimensions)
    steps_in_all = 1 + len(moved) + steps
    fit = _Fit(start, mixture, rows, scored, steps_in_all, STIFFNESS_OF_SEARCH, progress)
    fit.keep_to(moved)

    def odds_at(u: Array, probing: bool = False) -> Array:
        fit.go(u)
        odds = scored.log_odds(fit.tokens)
        fit.saw(u, float(np.logaddexp(0, -odds).mean()), probing)
        return odds

    model = LossModel([1] * sum(fit.sizes), BEND)
    u = np.zeros(len(moved))
    odds = odds_at(u)
    reach = scored.reach
    apart = [odds_at(reach * axis, probing=True) - odds for axis in np.eye(len(moved))]
    slopes = np.stack(apart, axis=1) / reach
    model.add(u, odds, slopes)
    for _ in range(steps):
        way = fit.minimum(model) - u
        there = odds_at(u + way)
        missed = there - odds - slopes @ way
        slopes = slopes + np.outer(missed, way) / max(float(way @ way), _LEAST_WAY)
        u, odds = u + way, there
        model.add(u, odds, slopes)
    folds = np.repeat(fit.folds, fit.sizes)
    return fit.result("search", fit.minimum(model), model, folds)


def largest(c: Array, count: int) -> NDArray[np.intp]:
    """Places of the coefficients largest in size, `count` at most; of equal ones, the first.

    Example:
        >>> largest(np.array([0.1, -0.5, 0.3]), 2)
        array([1, 2])
    """
    return np.argsort(-np.abs(c), kind="stable")[:count]


Refiner = Callable[..., tuple[Array, Refinement]]
REFINERS: dict[str, Refiner] = {"gradient": refine, "search": search}
"""Ways to fit, by the name a recipe uses."""
