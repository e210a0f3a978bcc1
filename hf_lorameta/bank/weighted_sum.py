"""Many adapters of a bank as one function of their coefficients.

Their sum, for any coefficients, and the products of their updates with each other; read module by
module, so that a large bank is never held in memory.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.packed import Space
from hf_lorameta.formats.lora_file import stack_into
from hf_lorameta.types import Array, FloatArray

_AT_ONCE = 64
"""Adapters whose products with all others are formed together: of rank 16, 66 MB with 502."""
HELD = 1 << 30
"""Bytes of factors up to which a mixture keeps them in memory."""


class ModuleFactors(NamedTuple):
    """One module of K adapters side by side, their scalings folded into B.

    Attributes:
        A: (Σr, in), or of a pack (Σr, R_a).
        B: (out, Σr), or of a pack (R_b, Σr).
        space: where the small factors of a pack lie.
    """

    A: FloatArray
    B: FloatArray
    space: Space | None


class WeightedSum:
    """The sum of a bank's adapters as a function of its coefficients.

    Memory: the factors in float32, if all of them take 1 GB (`HELD`) at most: those of SmolLM2's 43
    adapters take 55 MB. Of a larger bank one module's at a time, which is read anew for each sum
    and for each line of rows of a gradient: of 502 adapters of Mistral-7B 230 MB of 19 GB. Of a
    pack these are the small factors and its spaces, and adapters are added up inside the space.

    Args:
        bank: of N adapters.
        used: the K of them that take part.

    Attributes:
        size: K.
        rank: Σr of the K adapters.
    """

    linear = True

    def __init__(self, bank: Bank, used: Sequence[int]) -> None:
        entries = [bank.index.entries[i] for i in used]
        self._bank, self._used = bank, used
        self._files = bank.adapters(entries)
        self._sizes = {module.name: module for module in bank.stored_layout}
        self._ranks = [entry.rank for entry in entries]
        scalings = [entry.scaling for entry in entries]
        self._scalings = np.repeat(scalings, self._ranks).astype(np.float32)
        self._starts = np.cumsum([0, *self._ranks])[:-1]
        self.size, self.rank = len(entries), sum(self._ranks)
        self._held: dict[str, ModuleFactors] | None = {} if self._size() <= HELD else None

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

    def factors(self, module: str) -> ModuleFactors:
        """Everything about one module: from memory, or read now."""
        if self._held is None:
            return self._read(module)
        if module not in self._held:
            self._held[module] = self._read(module)
        return self._held[module]

    def _read(self, module: str) -> ModuleFactors:
        sizes = self._sizes[module]
        A = np.empty((self.rank, sizes.in_features), np.float32)
        B = np.empty((sizes.out_features, self.rank), np.float32)
        stack_into(self._files, module, A, B)
        B *= self._scalings
        basis = self._bank.basis
        return ModuleFactors(A, B, None if basis is None else basis.space(module))

    def pairs(self, c: Array) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Factors of the sum, (k, in) and (out, k), of every module in turn.

        Adapters whose coefficient is zero are left out, and not read of a bank too large to hold.

        Args:
            c: (K,) coefficients, or (M, K), those of each module.
        """
        some = np.flatnonzero(c.any(axis=0) if c.ndim > 1 else c)
        if self._held is None and 0 < some.size < c.shape[-1]:
            yield from WeightedSum(self._bank, [self._used[int(i)] for i in some]).pairs(
                c[..., some]
            )
            return
        layout = self._bank.layout
        spread = np.repeat(c, self._ranks, axis=-1).astype(np.float32)
        by_module = np.broadcast_to(spread, (len(layout), self.rank))
        used = np.flatnonzero(by_module.any(axis=0))
        for module, weights in zip(layout, by_module, strict=True):
            A, B, space = self.factors(module.name)
            if used.size < self.rank:
                A, B = A[used], B[:, used]
            weighted: FloatArray = B * weights[used]
            if space is None:
                yield A, weighted
            elif used.size < len(space.V):
                yield A @ space.V, space.U @ weighted
            else:
                yield space.V, space.U @ (weighted @ A)

    def by_adapter(self, by_rank: Array) -> Array:
        """(…, Σr) sums over each adapter's ranks: (…, K)."""
        return np.add.reduceat(by_rank, self._starts, axis=-1)

    def grams(self, among: Sequence[int] | None = None) -> Array:
        """⟨B_i A_i, B_j A_j⟩ of each module, with their scalings: (M, K, K).

        Args:
            among: places of the adapters that are asked for; None is all.
        """
        if among is not None:
            return WeightedSum(self._bank, [self._used[i] for i in among]).grams()
        layout = self._bank.layout
        found = np.empty((len(layout), self.size, self.size))
        for gram, module in zip(found, layout, strict=True):
            A, B, _ = self.factors(module.name)
            for first in range(0, self.size, _AT_ONCE):
                starts = self._starts[first : first + _AT_ONCE]
                some = slice(starts[0], (*self._starts, self.rank)[first + len(starts)])
                inner = ((A[some] @ A.T) * (B[:, some].T @ B)).astype(np.float64)
                by_adapter = np.add.reduceat(inner, starts - starts[0], 0)
                gram[first : first + len(starts)] = self.by_adapter(by_adapter)
        return found
