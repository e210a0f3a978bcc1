"""Seconds that each address has run the base model, which runs for one visitor at a time."""

import threading
import time
from collections import deque

from work.jobs import SpaceError

SECONDS = 600.0
"""Of the base model, for an address in `_PERIOD`."""
_PERIOD = 3600.0


class ModelTime:
    """Counts the seconds of each address in the last hour; all methods are thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spent: dict[str, deque[tuple[float, float]]] = {}

    def check(self, address: str) -> None:
        """Raise if an address has used its time.

        Raises:
            SpaceError: it has.
        """
        with self._lock:
            now = time.monotonic()
            for name, spent in list(self._spent.items()):
                while spent and now - spent[0][0] > _PERIOD:
                    spent.popleft()
                if not spent:
                    del self._spent[name]
            spent = self._spent.get(address, deque())
            if sum(seconds for _, seconds in spent) < SECONDS:
                return
            minutes = (_PERIOD - (now - spent[0][0])) / 60
        raise SpaceError(
            f"You have used the base model for {SECONDS / 60:.0f} minutes within an hour, all that "
            "one visitor may",
            hint=f"Try again in {minutes:.0f} minutes, or run hf-lorameta on your own machine.",
        )

    def add(self, address: str, seconds: float) -> None:
        """Count seconds that have just passed."""
        with self._lock:
            self._spent.setdefault(address, deque()).append((time.monotonic(), seconds))
