"""Limit what each address may use within an hour of what would otherwise run out for others."""

import threading
import time
from collections import deque

from space_error import SpaceError
from visitors.callers import shares_of

MODEL_SECONDS, TRAINING_SECONDS, READING_SECONDS = 600.0, 1800.0, 1800.0
"""Seconds for an address in `PERIOD`: of the base model, to try, and to train and check; of reading
datasets."""
ADAPTER_BYTES = 2_000_000_000
"""Bytes of adapters for an address in `PERIOD`; they stay on the disk as long, in three copies."""
PERIOD = 3600.0
"""Seconds in which use is counted."""


class HourlyShare:
    """Counts what each address has used in the last hour; all methods are thread-safe.

    Args:
        most: how much an address may use.
        done: what a visitor who has used that much has done, for the message.
        unit: a difference in use that counts, where the one who has used less goes first.
    """

    def __init__(self, most: float, done: str, unit: float = 60.0) -> None:
        self._most, self._done, self._unit = most, done, unit
        self._lock = threading.Lock()
        self._used: dict[str, deque[tuple[float, float]]] = {}

    def check(self, address: str, amount: float = 1) -> None:
        """Raise if an address does not have that much of its share left.

        Raises:
            SpaceError: it does not.
        """
        for network, shares in shares_of(address).items():
            used = self._recent(network)
            if sum(before for _, before in used) + amount > shares * self._most:
                break
        else:
            return
        since = time.monotonic() - used[0][0] if used else 0.0  # none: this alone is too much
        minutes = (PERIOD - since) / 60
        raise SpaceError(
            f"You have {self._done} within an hour, the limit for one visitor",
            code="page.hourly-limit",
            hint=f"Try again in {minutes:.0f} minutes, or run hf-lorameta on your own machine.",
        )

    def used(self, address: str) -> int:
        """Return how many whole units an address has used."""
        return int(sum(amount for _, amount in self._recent(address)) // self._unit)

    def _recent(self, address: str) -> list[tuple[float, float]]:
        """Return the times and amounts of an address, the oldest first, none too old."""
        with self._lock:
            now = time.monotonic()
            for name, used in list(self._used.items()):
                while used and now - used[0][0] > PERIOD:
                    used.popleft()
                if not used:
                    del self._used[name]
            return list(self._used.get(address, ()))

    def add(self, address: str, amount: float) -> None:
        """Count what has just been used."""
        with self._lock:
            for network in shares_of(address):
                self._used.setdefault(network, deque()).append((time.monotonic(), amount))


MODEL_TIME = HourlyShare(MODEL_SECONDS, f"tried adapters for {MODEL_SECONDS / 60:.0f} minutes")
TRAINING_TIME = HourlyShare(TRAINING_SECONDS, f"trained for {TRAINING_SECONDS / 60:.0f} minutes")
READING_TIME = HourlyShare(
    READING_SECONDS, f"read datasets for {READING_SECONDS / 60:.0f} minutes", unit=0.5
)
ADAPTERS = HourlyShare(ADAPTER_BYTES, f"made adapters of {ADAPTER_BYTES / 1e9:.0f} GB")
"""Bytes of the adapters that were made here."""
