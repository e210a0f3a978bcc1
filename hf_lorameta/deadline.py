"""A time limit that is passed down to whatever can stop early."""

import math
import time
from collections.abc import Callable


class Deadline:
    """A moment at which training stops.

    Attributes:
        seconds: from when it was made; None is no limit.
        clock: returns seconds; it never goes back.

    Example:
        >>> Deadline(0).passed, Deadline().passed, Deadline().left()
        (True, False, inf)
    """

    def __init__(
        self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds, self.clock = seconds, clock
        self._end = math.inf if seconds is None else clock() + seconds

    def left(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(self._end - self.clock(), 0.0)

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._end < math.inf

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return not self.left()
