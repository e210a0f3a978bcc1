"""What is counted of a dataset's rows for remarks, and these remarks.

A new one is a field of `RowCounts` that `RowCounter` counts, and a remark.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hf_lorameta.remarks import Remark
from hf_lorameta.tables import plural
from hf_lorameta.types import Row

_DIFFERENT = 1000
"""How many different outputs are counted, at most."""
_LARGE_SHARE = 0.9


@dataclass(frozen=True)
class RowCounts:
    """How many rows of a dataset have what a remark is about.

    Attributes:
        cut: rows with a text that was cut to its beginning.
        same: rows with the most frequent output.
        repeated: rows that had come before, if some are drawn to train or check on.
    """

    cut: int = 0
    same: int = 0
    repeated: int = 0

    def remarks(self, rows: int) -> Iterator[Remark]:
        """Yield the remarks on a dataset of so many rows.

        Example:
            >>> print(*RowCounts(cut=2, repeated=1).remarks(20), sep=chr(10))
            Rows that repeat earlier ones are neither trained nor checked on: 1 of 20.
            Only the beginning of 2 rows was counted: their texts exceed the length limit.
        """
        if self.repeated:
            text = "Rows that repeat earlier ones are neither trained nor checked on"
            yield Remark("note", f"{text}: {self.repeated} of {rows}.", code="rows.repeated")
        if self.cut:
            text = f"Only the beginning of {plural(self.cut, 'row')} was counted"
            yield Remark(
                "warning",
                f"{text}: their texts exceed the length limit.",
                code="rows.beginning-counted",
            )
        if _LARGE_SHARE * rows <= self.same < rows:
            text = f"{self.same / rows:.0%} of the rows have the same output"
            yield Remark(
                "warning", f"{text}: right answers alone tell little.", code="outputs.mostly-same"
            )


class RowCounter:
    """Counts rows while they are read; what it keeps of their texts is not stored.

    Args:
        most: characters of a text; longer ones were cut.

    Example:
        >>> counter = RowCounter(5)
        >>> for row in [("one", "a"), ("three", "a"), ("two", "b"), ("no", "")]:
        ...     counter.add(row)
        >>> counter.counts(repeated=1)
        RowCounts(cut=1, same=2, repeated=1)
    """

    def __init__(self, most: int) -> None:
        self._most, self._cut = most, 0
        self._outputs: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        """Count a row."""
        self._cut += max(map(len, row)) >= self._most
        if row[1] in self._outputs or len(self._outputs) < _DIFFERENT:
            self._outputs[row[1]] += bool(row[1])

    def counts(self, repeated: int) -> RowCounts:
        """Return the counts of the rows so far; how many are repeated is counted where drawn."""
        return RowCounts(self._cut, max(self._outputs.values(), default=0), repeated)
