"""Small models with known optima that stand in for a base model and a bank's adapters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines.interfaces import AdapterUpdate
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.method.coefficients import Coefficients

Array = NDArray[np.float64]
ROWS = [(f"input {i}", f"output {i}") for i in range(16)]
TRUTH = [2.0, -1.5, 1.0, 0.5]


class Model(WeightedSum):
    """Weighted sum and base model in one, whose loss is a function of the coefficients."""

    c: Array
    base = 10.0
    cleared = False

    def set(self, update: AdapterUpdate, coefficients: Coefficients) -> None:
        assert update is self
        self.c, self.cleared = coefficients.shared, False

    def clear(self) -> None:
        self.cleared = True

    def chat_prompt(self, text: str) -> str | None:
        return None

    def encode(self, rows: Sequence[Any]) -> list[Tokens]:
        """Outputs of 1, 2 or 3 tokens."""
        return [Tokens([i], [0] * (1 + i % 3)) for i, _ in enumerate(rows)]


class Slope(Model):
    """The loss of every row is 8 c²."""

    def __init__(self, base: float) -> None:
        self.base = base

    def loss(self, tokens: Sequence[Tokens]) -> float:
        return self.base if self.cleared else float(8 * self.c @ self.c)

    def row_losses(self, tokens: Sequence[Tokens]) -> Array:
        raise AssertionError("only the mean loss is needed")

    def gradient(self, tokens: Sequence[Tokens], weighted_sum: WeightedSum) -> tuple[Array, Array]:
        raise AssertionError("only the mean loss is needed")


class Logistic(Model):
    """A loss whose log odds are quadratic in the coefficients, for 16 rows labeled by `truth`."""

    def __init__(self, truth: list[float], base: float = 10.0, curvature: float = 0.05) -> None:
        self.curvature = curvature
        rng, size = np.random.default_rng(3), len(truth)
        x = rng.standard_normal((len(ROWS), size))
        label = np.sign(x @ np.array(truth) + rng.logistic(size=len(ROWS)))
        self.x, self.base, self.c = x * label[:, None], base, np.zeros(size)

    def grams(self, among: Sequence[int] | None = None) -> Array:
        x = self.x if among is None else self.x[:, among]
        return np.asarray(x.T @ x)[None]

    def _odds(self, tokens: Sequence[Tokens]) -> tuple[Array, Array]:
        x = self.x[[row.prompt[0] for row in tokens]]
        m = x @ self.c
        return m + self.curvature * m**2, (1 + 2 * self.curvature * m)[:, None] * x

    def loss(self, tokens: Sequence[Tokens]) -> float:
        return self.base if self.cleared else self._mean_loss(tokens)

    def _mean_loss(self, tokens: Sequence[Tokens]) -> float:
        return float(self.row_losses(tokens).sum() / sum(len(row.output) for row in tokens))

    def gradient(self, tokens: Any, weighted_sum: Any) -> Any:
        assert weighted_sum is self
        m, slopes = self._odds(tokens)
        return np.logaddexp(0, -m), -(slopes / (1 + np.exp(m))[:, None])[:, None]

    def row_losses(self, tokens: Any) -> Any:
        return np.logaddexp(0, -self._odds(tokens)[0]) * [len(row.output) for row in tokens]

    def at(self, c: Array) -> float:
        """Loss of all rows."""
        self.set(self, Coefficients(c))
        return self.loss(self.encode(ROWS))


class Modular(Logistic):
    """The same with two modules, each with its own features."""

    def grams(self, among: Sequence[int] | None = None) -> Array:
        assert among is None
        return np.stack([part.T @ part for part in np.split(self.x, 2, axis=1)])

    def set(self, update: AdapterUpdate, coefficients: Coefficients) -> None:
        rows = [coefficients.for_module(0), coefficients.for_module(1)]
        super().set(update, Coefficients(np.concatenate(rows)))

    def at_modules(self, c: Coefficients) -> float:
        """Loss of all rows."""
        self.set(self, c)
        return self.loss(self.encode(ROWS))

    def gradient(self, tokens: Any, weighted_sum: Any) -> Any:
        losses, slopes = super().gradient(tokens, weighted_sum)
        return losses, slopes.reshape(len(losses), 2, -1)
