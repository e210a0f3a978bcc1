"""Read several adapters and combine them, one module at a time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hf_lorameta.bank.executors import WORKERS, in_modules
from hf_lorameta.formats.lora_file import AdapterFile
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.method.low_rank import LowRankSum
from hf_lorameta.method.merging import Concatenated, Weights
from hf_lorameta.method.registries import Combiner
from hf_lorameta.types import FactorPair, FloatArray

_MAX_STACKED_BYTES = 560 << 20
"""Bytes of stacked factors held at a time: as many modules as fit are combined in parallel."""


class AdapterStack:
    """Adapters of one base model, stacked into one lora_A and one lora_B per module.

    Args:
        files: their weights.
        scalings: factor of B·A of each.

    Attributes:
        ranks: of each adapter.
    """

    def __init__(self, files: Sequence[AdapterFile], scalings: Weights) -> None:
        self.files, self.scalings = files, np.asarray(scalings)
        self.ranks = [file.rank for file in files]

    def size(self, module: Module) -> int:
        """Number of values in the stacked factors of a module."""
        return sum(self.ranks) * (module.in_features + module.out_features)

    def read(self, module: Module, buffer: FloatArray | None = None) -> FactorPair:
        """Return A (Σr, in) and B (out, Σr) of a module that all adapters have, not yet scaled.

        Args:
            module: with the sizes of the stored factors.
            buffer: array of at least `size` values, which the result is a view of; None allocates
                one, which can take as long as reading.
        """
        buffer = np.empty(self.size(module), np.float32) if buffer is None else buffer
        rank = sum(self.ranks)
        split, end = rank * module.in_features, self.size(module)
        A = buffer[:split].reshape(rank, module.in_features)
        B = buffer[split:end].reshape(module.out_features, rank)
        self.files[0].stack(self.files, module.name, A, B)
        return A, B

    def combine(
        self,
        layout: Layout,
        weights: Weights,
        combiner: Combiner,
        rank: int | None = None,
        *,
        expand: Callable[[str, FloatArray, FloatArray], FactorPair] | None = None,
    ) -> Iterator[FactorPair]:
        """Yield lora_A and lora_B of each module of the combined adapter, scaling included.

        Modules are read and combined a few at a time. A module that an adapter lacks is combined
        from the others.

        Args:
            layout: the modules, with the sizes of the stored factors.
            weights: (N,) coefficients.
            combiner: see `hf_lorameta.method.registries.COMBINERS`.
            rank: of the result; None is the combiner's default.
            expand: maps stored factors to the sizes of the base model, see `Bank.expand`; None if
                they already have them.

        Raises:
            RecipeError: the combiner cannot combine these ranks.
            AdapterError: a value is not finite.
        """
        coefficients, size = np.asarray(weights), max(map(self.size, layout))
        workers = max(1, min(WORKERS, _MAX_STACKED_BYTES // (4 * size)))
        buffers = [np.empty(size, np.float32) for _ in range(workers)]

        def combined(number: int) -> FactorPair:
            buffer, module = buffers.pop(), layout[number]
            part, present = self._adapting(module)
            A, B = part.read(module, buffer)
            As, Bs = Concatenated(A, part.ranks, 0), Concatenated(B, part.ranks, 1)
            pair = combiner.function(As, Bs, coefficients[present], part.scalings, rank)
            buffers.append(buffer)
            return expand(module.name, *pair) if expand else pair

        return in_modules(combined, len(layout), workers)

    def squared_norm(self, layout: Layout, weights: Weights) -> float:
        """Return the exact sum's squared norm, ``Σ ‖Σ c_i s_i B_i A_i‖²`` over the modules."""
        total = 0.0
        for module in layout:
            part, present = self._adapting(module)
            scaled = np.asarray(weights)[present] * part.scalings
            update = LowRankSum(*part.read(module), np.repeat(scaled, part.ranks))
            total += update.squared_norm()
        return total

    def _adapting(self, module: Module) -> tuple["AdapterStack", list[int]]:
        """Return the adapters that change a module, and their positions."""
        present = [i for i, file in enumerate(self.files) if file.adapts(module.name)]
        return AdapterStack([self.files[i] for i in present], self.scalings[present]), present
