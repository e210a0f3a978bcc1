"""The stacked factors of a bank's adapters, and their weighted sum for any coefficients.

Modules are read one after another, so that memory does not grow with their number.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import GeneralEntry, IndexEntry
from hf_lorameta.bank.pack_format import ModuleBases
from hf_lorameta.formats.lora_file import stack_into
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.types import Array, FactorPair, FloatArray

_GRAM_BATCH = 64  # adapters computed together with all others: 66 MB of 502 at rank 16
MAX_CACHED = 1 << 30
"""Largest size in bytes of all factors, in float32, at which they are cached in memory."""


class AdapterStack:
    """Some adapters of a bank, read one module at a time into one lora_A and one lora_B.

    Args:
        bank: the bank, which fetches and verifies them.
        entries: the adapters.

    Attributes:
        ranks: of each adapter.
        scalings: of each adapter.
    """

    def __init__(self, bank: Bank, entries: Sequence[IndexEntry | GeneralEntry]) -> None:
        self._files = bank.adapters(entries)
        self.ranks = [entry.rank for entry in entries]
        self.scalings = np.array([entry.scaling for entry in entries])

    def size(self, module: Module) -> int:
        """Number of values in the stacked factors of a module."""
        return sum(self.ranks) * (module.in_features + module.out_features)

    def read(self, module: Module, buffer: FloatArray | None = None) -> FactorPair:
        """Return A (Σr, in) and B (out, Σr) of a module of ``bank.stored_layout``, not yet scaled.

        Args:
            module: with the sizes of the stored factors.
            buffer: memory for at least `size` values, which the result is a view of; None allocates
                some, which can take as long as reading.
        """
        buffer = np.empty(self.size(module), np.float32) if buffer is None else buffer
        rank = sum(self.ranks)
        split, end = rank * module.in_features, self.size(module)
        A = buffer[:split].reshape(rank, module.in_features)
        B = buffer[split:end].reshape(module.out_features, rank)
        stack_into(self._files, module.name, A, B)
        return A, B


class ModuleFactors(NamedTuple):
    """Stacked factors of one module of K adapters, with their scalings multiplied into B.

    A is (Σr, in) and B (out, Σr), in a pack (Σr, R_a) and (R_b, Σr), in `bases`.
    """

    A: FloatArray
    B: FloatArray
    bases: ModuleBases | None


class WeightedSum:
    """The sum of K adapters of a bank as a function of their coefficients.

    Memory: all factors in float32 if they take at most 1 GB (`MAX_CACHED`), 55 MB for SmolLM2's 43
    adapters. In a larger bank one module at a time, read again for each sum and each batch of rows
    of a gradient: 230 MB of 19 GB for 502 adapters of Mistral-7B. In a pack these are the small
    factors and the bases, and adapters are added up inside their common space.
    `size` is K, and `rank` Σr.

    Args:
        bank: the bank.
        indices: of K adapters in ``bank.index.adapters``; the last may be one beyond these: it is
            the output prior.
        output_prior: A (r, in) and B (out, r) of its only module.
    """

    def __init__(
        self,
        bank: Bank,
        indices: Sequence[int],
        output_prior: FactorPair | None = None,
    ) -> None:
        has_prior = bool(indices) and indices[-1] == len(bank.index.adapters)
        entries = [bank.index.adapters[i] for i in (indices[:-1] if has_prior else indices)]
        self._bank, self._indices = bank, indices
        self._prior = output_prior if has_prior else None
        self._stack = AdapterStack(bank, entries)
        self._modules = {module.name: module for module in bank.stored_layout}
        ranks = self._stack.ranks
        self._scalings = np.repeat(self._stack.scalings, ranks).astype(np.float32)
        self._ranks = [*ranks, len(self._prior[0])] if self._prior else ranks
        self._starts = np.cumsum([0, *self._ranks])[:-1]
        self.size, self.rank = len(self._ranks), sum(self._ranks)
        values = self.rank * sum(m.in_features + m.out_features for m in bank.stored_layout)
        cached = 4 * (values + bank.basis_values) <= MAX_CACHED
        self._cache: dict[str, ModuleFactors] | None = {} if cached else None

    @property
    def layout(self) -> Layout:
        """The modules of the sum."""
        return self._bank.adapted_layout if self._prior else self._bank.layout

    def factors(self, module: str) -> ModuleFactors:
        """Factors of one module, from the cache or from disk."""
        if self._cache is None:
            return self._read(module)
        if module not in self._cache:
            self._cache[module] = self._read(module)
        return self._cache[module]

    def _read(self, module: str) -> ModuleFactors:
        own = len(self._scalings)  # ranks of adapters; those of the output prior follow
        if module not in self._modules:
            assert self._prior is not None
            return ModuleFactors(*_padded(*self._prior, before=own), None)
        A, B = self._stack.read(self._modules[module])
        B *= self._scalings
        if self._prior:
            A, B = _padded(A, B, after=self.rank - own)
        basis = self._bank.basis
        return ModuleFactors(A, B, None if basis is None else basis.module(module))

    def pairs(self, coefficients: Coefficients) -> Iterator[FactorPair]:
        """Yield the factors of the sum, (k, in) and (out, k), module by module.

        Adapters whose coefficients are zero are left out; of a bank larger than `MAX_CACHED` they
        are not even read.
        """
        active = coefficients.active
        if self._cache is None and 0 < active.size < self.size:
            some = WeightedSum(self._bank, [self._indices[i] for i in active], self._prior)
            yield from some.pairs(coefficients.take(active))
            return
        ranks = np.flatnonzero(np.repeat(np.isin(np.arange(self.size), active), self._ranks))
        for index, module in enumerate(self.layout):
            A, B, space = self.factors(module.name)
            if ranks.size < self.rank:
                A, B = A[ranks], B[:, ranks]
            weights = np.repeat(coefficients.for_module(index), self._ranks).astype(np.float32)
            weighted: FloatArray = B * weights[ranks]
            if space is None:
                yield A, weighted
            elif ranks.size < len(space.V):
                yield A @ space.V, space.U @ weighted
            else:
                yield space.V, space.U @ (weighted @ A)

    def by_adapter(self, by_rank: Array) -> Array:
        """Sum over the ranks of each adapter: (…, Σr) → (…, K)."""
        return np.add.reduceat(by_rank, self._starts, axis=-1)

    def grams(self, among: Sequence[int] | None = None) -> Array:
        """Gram matrices ⟨s_i B_i A_i, s_j B_j A_j⟩ in each module: (M, K, K), K all or `among`."""
        if among is not None:
            order = np.sort(among)  # the output prior stays the last
            grams = WeightedSum(self._bank, [self._indices[i] for i in order], self._prior).grams()
            positions = np.searchsorted(order, among)
            return np.asarray(grams[:, positions][:, :, positions])
        layout = self.layout
        grams = np.empty((len(layout), self.size, self.size))
        for gram, module in zip(grams, layout, strict=True):
            A, B, _ = self.factors(module.name)
            for first in range(0, self.size, _GRAM_BATCH):
                starts = self._starts[first : first + _GRAM_BATCH]
                batch = slice(starts[0], (*self._starts, self.rank)[first + len(starts)])
                products = ((A[batch] @ A.T) * (B[:, batch].T @ B)).astype(np.float64)
                by_adapter = np.add.reduceat(products, starts - starts[0], 0)
                gram[first : first + len(starts)] = self.by_adapter(by_adapter)
        return grams


def _padded(A: FloatArray, B: FloatArray, before: int = 0, after: int = 0) -> FactorPair:
    """Add ranks that are zero to A (r, in) and B (out, r)."""
    return np.pad(A, ((before, after), (0, 0))), np.pad(B, ((0, 0), (before, after)))
