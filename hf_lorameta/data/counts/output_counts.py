"""Counts of the tokens that a model writes for a dataset: the first ones apart from the others."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.data.counts.profile import batches
from hf_lorameta.types import Encode, Row

COPY_ROWS = 2048
"""Number of rows whose inputs are tokenized to see what outputs copy from them."""


class OutputCounts(NamedTuple):
    """Counts of output tokens as a model writes them, after an input.

    Attributes:
        first: (V,) counts of the first tokens of the outputs.
        later: (V,) counts of all others, end tokens included.
        copied: share of the first tokens that occur in the input of their row, in the first
            `COPY_ROWS` rows.
    """

    first: NDArray[np.int64]
    later: NDArray[np.int64]
    copied: float


class OutputCounter:
    """Counts the output tokens of rows.

    Args:
        encode: the base model's tokenizer, without special tokens.
        vocab_size: V.
        end: id of the end token.

    Example:
        >>> letters = lambda texts: [[" ab".index(c) for c in text] for text in texts]
        >>> counter = OutputCounter(letters, 4, end=3)
        >>> counter.add([("ab", "b"), ("", "ba")])
        >>> first, later, copied = counter.counts
        >>> first.tolist(), later.tolist(), copied
        ([1, 0, 1, 0], [0, 1, 1, 2], 0.0)
    """

    def __init__(self, encode: Encode, vocab_size: int, end: int) -> None:
        self._encode, self._end = encode, end
        self._copied = self._compared = 0
        self._first, self._later = (np.zeros(vocab_size, np.int64) for _ in range(2))

    def add(self, rows: Sequence[Row], inputs: Sequence[Sequence[int]] | None = None) -> None:
        """Count more rows; those with a blank output are left out.

        Args:
            rows: of any number; a batch if their inputs are encoded already.
            inputs: the token ids of these; None encodes them.
        """
        labeled = [index for index, row in enumerate(rows) if row[1].strip()]
        if inputs is not None:
            self._count([rows[i] for i in labeled], [inputs[i] for i in labeled])
            return
        for batch in batches(rows[i] for i in labeled):
            self._count(batch)

    @property
    def counts(self) -> OutputCounts:
        """The counts of the rows so far."""
        share = self._copied / max(self._compared, 1)
        return OutputCounts(self._first, self._later, share)

    def _count(self, rows: Sequence[Row], inputs: Iterable[Sequence[int]] | None = None) -> None:
        outputs = list(self._encode([_written(*row) for row in rows]))
        for ids in outputs:
            if len(ids):
                self._first[ids[0]] += 1
                np.add.at(self._later, [*ids[1:], self._end], 1)
        if self._compared < COPY_ROWS:
            inputs = self._encode([row[0] for row in rows]) if inputs is None else inputs
            pairs = [(ids[0], seen) for ids, seen in zip(outputs, inputs, strict=True) if len(ids)]
            self._compared += len(pairs)
            self._copied += sum(token in seen for token, seen in pairs)


def _written(prompt: str, output: str) -> str:
    """Return the text that a model writes: the output after a space, unless the input has one.

    A space at the end of an input belongs to the first token of the output.

    Example:
        >>> _written("Q:", "a"), _written("Q: ", "a"), _written("Q:\\n", "a"), _written("", "a")
        (' a', ' a', 'a', 'a')
    """
    return f" {output}" if prompt and not prompt.endswith(("\n", "\t")) else output
