"""The stacked factors of a bank's adapters, read one module after another."""

from collections.abc import Sequence

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import GeneralEntry, IndexEntry
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.types import FactorPair, FloatArray


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
        self._files[0].stack(self._files, module.name, A, B)
        return A, B
