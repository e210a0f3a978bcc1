"""Limit how much of the server's memory visits keep, by address and in total."""

import pickle
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Protocol
from weakref import ReferenceType, ref

from hf_lorameta.types import Row

OF_ADDRESS, IN_ALL = 50_000_000, 500_000_000
"""Bytes that visits of an address, and all visits, may keep; they last an hour otherwise."""
PLAN_BYTES = 1_500_000
"""Bytes of a plan without its rows: for outputs, two numbers per token of the vocabulary."""


class StoredRows(Sequence[Row]):
    """Rows in bytes, as UTF-8: in a `str`, a single emoji makes each character four bytes long.

    Attributes:
        size: in bytes.

    Example:
        >>> rows = StoredRows([("héllo", "😀")])
        >>> rows[0], rows.size < 150
        (('héllo', '😀'), True)
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = [pickle.dumps(row, pickle.HIGHEST_PROTOCOL) for row in rows]
        self.size = sum(map(sys.getsizeof, self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return pickle.loads(self._rows[index])  # they never left this process


class Keeper(Protocol):
    """A visit that keeps a plan."""

    key: str
    lock: threading.RLock

    def forget_plan(self) -> None:
        """Drop the plan."""


class Kept:
    """The visits that keep a plan; above a limit, the oldest ones forget theirs.

    All methods are thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._visits: dict[str, tuple[ReferenceType[Keeper], str, int]] = {}  # the oldest first

    def keep(self, visit: Keeper, address: str, size: int) -> None:
        """Count what a visit keeps now, in place of what it kept before, and make room for it."""
        with self._lock:
            living = {k: v for k, v in self._visits.items() if v[0]() and k != visit.key}
            self._visits = living | {visit.key: (ref(visit), address, size)}
            used = Counter[str]()
            for _, of, bytes_of in self._visits.values():
                used[of] += bytes_of
            for key, (found, of, bytes_of) in list(living.items()):
                if used[address] <= OF_ADDRESS and used.total() <= IN_ALL:
                    break
                oldest = found()
                is_over = used.total() > IN_ALL or of == address
                # a visit that is busy is skipped, since waiting for it might never end
                if oldest is None or not is_over or not oldest.lock.acquire(blocking=False):
                    continue
                try:
                    oldest.forget_plan()
                finally:
                    oldest.lock.release()
                used[of] -= bytes_of
                del self._visits[key]


KEPT = Kept()
