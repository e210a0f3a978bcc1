"""The network of the rule ``neural``, evaluated without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import BankError
from hf_lorameta.types import Array

_FIT_HINT = "hf-lorameta bank fit DIR"
_LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class NeuralModel:
    """The network g: ℝ → ℝ of the rule ``neural``.

    Linear(1, h), LayerNorm, ReLU, Linear(h, h), LayerNorm, ReLU, Linear(h, 1); arrays have the
    names they have in that ``torch.nn.Sequential``, and the shapes of `shapes`.

    Example:
        >>> zeros = {name: np.zeros(shape) for name, shape in NeuralModel.shapes(4).items()}
        >>> model = NeuralModel.from_arrays(zeros | {"6.bias": np.array([2.5])})
        >>> model(np.array([-1.0, 1.0])), model.hidden
        (array([2.5, 2.5]), 4)
    """

    arrays: Mapping[str, NDArray[np.float32]]

    @property
    def hidden(self) -> int:
        """h, the width."""
        return int(self.arrays["0.bias"].size)

    @staticmethod
    def shapes(hidden: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays of a network of width `hidden`, by name."""
        h = hidden
        weights = {"0": (h, 1), "1": (h,), "3": (h, h), "4": (h,), "6": (1, h)}
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, shape in weights.items():
            shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
        return shapes

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "NeuralModel":
        """Build a network from arrays as `to_arrays` returns them.

        Raises:
            BankError: a name is missing or unknown, a shape is wrong, or a value is not finite.
        """
        hidden = np.size(arrays.get("0.bias", ()))
        expected = cls.shapes(hidden)
        got = {name: np.shape(array) for name, array in arrays.items()}
        for name in sorted(expected.keys() | got.keys()):
            if not hidden or got.get(name) != expected.get(name):
                raise BankError(
                    f"the bank's neural model: {name} has shape {got.get(name)}, "
                    f"expected {expected.get(name)} at width {hidden}",
                    hint=_FIT_HINT,
                )
            if not np.isfinite(arrays[name]).all():
                raise BankError(f"the bank's neural model: {name} is not finite", hint=_FIT_HINT)
        return cls({name: np.array(arrays[name], np.float32) for name in expected})

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the arrays, by name."""
        return {name: array.copy() for name, array in self.arrays.items()}

    def __call__(self, x: Array) -> Array:
        """Apply g to every entry: (N,) → (N,) float64."""
        h = self._linear("0", np.asarray(x, np.float64)[:, None])
        h = self._linear("3", self._normalized_relu("1", h))
        return self._linear("6", self._normalized_relu("4", h))[:, 0]

    def _linear(self, layer: str, x: Array) -> Array:
        weight = self.arrays[f"{layer}.weight"].astype(np.float64)
        return np.asarray(x @ weight.T + self.arrays[f"{layer}.bias"])

    def _normalized_relu(self, layer: str, x: Array) -> Array:
        x = x - x.mean(axis=1, keepdims=True)
        x /= np.sqrt((x**2).mean(axis=1, keepdims=True) + _LAYER_NORM_EPS)
        x = x * self.arrays[f"{layer}.weight"] + self.arrays[f"{layer}.bias"]
        return np.maximum(x, 0.0, out=x)
