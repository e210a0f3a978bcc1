"""A time limit that is passed down to whatever can stop early."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

_LEAST_SHARE = 0.02
"""Share of a core that a process is taken to get at least."""


class Deadline:
    """A moment at which work stops.

    Attributes:
        seconds: from when it began; None is no limit.
        clock: returns seconds; it never goes back.

    Args:
        seconds: as above.
        clock: as above.
        began: by the clock; None is now.
        kept: CPU seconds that what follows the work takes, such as saving: they are not left.
        cpu: returns the CPU seconds of this process.

    Example:
        >>> Deadline(0).passed, Deadline().passed, Deadline().left()
        (True, False, inf)
    """

    def __init__(
        self,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        began: float | None = None,
        kept: float = 0.0,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self.seconds, self.clock = seconds, clock
        self._now, self._kept, self._cpu = clock(), kept, cpu
        self._cpu_now = cpu()
        start = self._now if began is None else began
        self._end = math.inf if seconds is None else start + seconds

    def left(self) -> float:
        """Return the seconds that are left, at least 0."""
        kept = self._kept / self.share if self._kept else 0.0
        return max(self._end - self.clock() - kept, 0.0)

    @property
    def share(self) -> float:
        """Share of a core that the process has got since this was made, at most 1.

        Example:
            >>> times, cpu = iter([0.0, 10.0]), iter([1.0, 3.0])
            >>> Deadline(60, lambda: next(times), cpu=lambda: next(cpu)).share
            0.2
        """
        wall, used = self.clock() - self._now, self._cpu() - self._cpu_now
        return min(max(used / wall, _LEAST_SHARE), 1.0) if wall > 0 else 1.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._end < math.inf

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return not self.left()

    @contextmanager
    def paused(self) -> Iterator[Self]:
        """Do not count the time of a block, such as a download; `share` is measured after it."""
        begun = self.clock()
        yield self
        self._now, self._cpu_now = self.clock(), self._cpu()
        self._end += self._now - begun

    def part(self, share: float) -> "Deadline":
        """Return a deadline after a share of the time that is left."""
        return Deadline(self.left() * share if self.limited else None, self.clock, cpu=self._cpu)
