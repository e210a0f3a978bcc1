"""Progress bars of several stages, one after the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.types import Row, StageProgress

_DELAY_SECONDS = 2.0
_REPORTED_ROWS = 100


@contextmanager
def stage_bars(make_bar: Callable[..., Any] | None = None) -> "Iterator[StageProgress]":
    """Show a bar with the time left for each stage that takes longer than two seconds.

    Args:
        make_bar: makes a bar as `tqdm.tqdm`; None is `tqdm.auto.tqdm`, which suits notebooks, too.

    Yields:
        A `StageProgress`; a new title starts a new bar.
    """
    if make_bar is None:
        from tqdm.auto import tqdm

        make_bar = tqdm
    bars: dict[str, Any] = {}

    def progress(title: str, done: int, total: int) -> None:
        if title not in bars:
            for bar in bars.values():
                bar.close()
            bars[title] = make_bar(total=total, desc=title, delay=_DELAY_SECONDS)
        bars[title].total = total  # a stage may turn out shorter
        bars[title].update(done - bars[title].n)
        bars[title].n = done  # a disabled bar does not count

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()


@contextmanager
def bars_unless(progress: "StageProgress | None") -> "Iterator[StageProgress]":
    """Yield the given function, or one that shows bars if it is None."""
    if progress is not None:
        yield progress
        return
    with stage_bars() as shown:
        yield shown


def with_progress(dataset: "Dataset", progress: "StageProgress") -> "Dataset":
    """Return a dataset that reports how many rows have been read, whenever they are read."""

    def reported(read: "Callable[[], Iterator[Row]]") -> "Callable[[], Iterator[Row]]":
        def rows() -> "Iterator[Row]":
            for number, row in enumerate(read()):
                if number % _REPORTED_ROWS == 0:
                    progress("Reading rows", number, 0)
                yield row

        return rows

    sampled = dataset.sampled and reported(dataset.sampled)
    return replace(
        dataset, rows=reported(dataset.rows), whole=reported(dataset.whole), sampled=sampled
    )


def duration(seconds: float) -> str:
    """Format a duration.

    Example:
        >>> duration(40), duration(150), duration(9000)
        ('40 s', '2 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
