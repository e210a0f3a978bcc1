"""Draw rows of a dataset: from a stream of any length, and evenly over its outputs."""

import random
from collections.abc import Iterable, Iterator, Sequence

from hf_lorameta.types import Row


class RowSample:
    """Draws different rows with an output from a stream, all equally likely (Vitter's algorithm R).

    Args:
        size: number of rows to draw; of a stream with fewer, all are drawn, in its order.
        seed: of drawing.

    Attributes:
        rows: the rows drawn so far.
        repeated: number of rows with an output that had come before.

    Example:
        >>> sample = RowSample(2, seed="0")
        >>> stream = [("a", "1"), ("a", "1"), ("b", ""), ("c", "2")]
        >>> list(sample.of(stream)) == stream
        True
        >>> sample.rows
        [('a', '1'), ('c', '2')]
    """

    def __init__(self, size: int, seed: str) -> None:
        self.rows: list[Row] = []
        self.repeated = 0
        self._size, self._random = size, random.Random(seed)
        self._seen: set[int] = set()

    def of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield all rows of the stream."""
        for row in rows:
            if row[1].strip():
                if (digest := hash(row)) in self._seen:
                    self.repeated += 1
                else:
                    self._seen.add(digest)
                    self._draw(row)
            yield row

    def draw_from(self, rows: Iterable[Row]) -> int:
        """Read a stream to its end, and return the number of rows in it."""
        return sum(1 for _ in self.of(rows))

    def _draw(self, row: Row) -> None:
        if len(self.rows) < self._size:
            self.rows.append(row)
            return
        index = self._random.randrange(len(self._seen))
        if index < self._size:
            self.rows[index] = row


def draw_stratified(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Draw rows so that each output is as frequent among them as among all rows, in random order.

    Of n rows of N with the same output, ⌊n · count / N⌋ or one more are drawn: systematic sampling
    of the rows sorted by output. If no output repeats, all rows are equally likely.

    Args:
        rows: N of them.
        count: of rows to draw; N if there are fewer.
        seed: of drawing.

    Example:
        >>> rows = [(f"{i}", "no" if i < 6 else "yes") for i in range(8)]
        >>> sorted(output for _, output in draw_stratified(rows, 4, seed=0))
        ['no', 'no', 'no', 'yes']
    """
    generator = random.Random(seed)
    by_output: dict[str, list[Row]] = {}
    for row in generator.sample(rows, len(rows)):
        by_output.setdefault(row[1].strip(), []).append(row)
    ordered = [row for group in by_output.values() for row in group]
    count = min(count, len(rows))
    start = generator.randrange(len(rows)) if rows else 0
    drawn = [ordered[(start + i * len(rows)) // count] for i in range(count)]
    generator.shuffle(drawn)
    return drawn
