"""Locks of files: wait for one, and say who holds it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_SILENT_SECONDS = 2.0
_HELD = Path("/proc/locks")
"""The locks of Linux: kind, process and ``device:inode`` of each."""

logger = logging.getLogger(__name__)


@contextmanager
def waiting_for(lock: Path) -> Iterator[None]:
    """Hold a lock in the context; if that takes more than 2 s, a warning says who holds it."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=_SILENT_SECONDS)
    except Timeout:
        logger.warning("Waiting until another command%s releases %s", holder(lock), lock)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def holder(lock: Path) -> str:
    """Name the process that holds a lock, in brackets; empty if this system does not tell.

    Example:
        >>> holder(Path("no/such.lock"))
        ''
    """
    try:
        inode, lines = str(lock.stat().st_ino), _HELD.read_text().splitlines()
    except OSError:
        return ""
    for _, kind, *rest in map(str.split, lines):  # "->" in place of a kind: it waits
        if kind == "FLOCK" and rest[3].rpartition(":")[2] == inode:
            return f" (process {rest[2]})"
    return ""
