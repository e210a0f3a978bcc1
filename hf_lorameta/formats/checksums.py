"""Cache of verified SHA-256 digests, keyed by file name, size and modification time.

A file whose size and modification time have not changed is taken as unchanged, as Git and make do.
``bank verify`` computes every digest again.
"""

import json
import logging
import threading
from pathlib import Path

from hf_lorameta.files import sha256, write_atomically

logger = logging.getLogger(__name__)


class ChecksumCache:
    """Cache of verified digests in a JSON file, which need not exist. Threads may share one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries = _read(path)
        self._changed = False

    def verify(self, name: str, path: Path, digest: str | None) -> bool:
        """Return whether a file, `name` in the cache, has this SHA-256; None never matches."""
        if digest is None:
            return False
        with self._lock:
            if self._entries.get(name) == _entry(path, digest):
                return True
        if sha256(path) != digest:
            return False
        self.record(name, path, digest)
        return True

    def record(self, name: str, path: Path, digest: str) -> None:
        """Add a file whose digest has just been computed."""
        with self._lock:
            self._entries[name] = _entry(path, digest)
            self._changed = True

    def save(self) -> None:
        """Write the cache if it has changed; log the failure if its folder is not writable."""
        with self._lock:
            if not self._changed:
                return
            content = json.dumps(self._entries, indent=0, sort_keys=True).encode()
            self._changed = False
        try:
            self._path.parent.mkdir(exist_ok=True)
            write_atomically(self._path, content)
        except OSError as error:
            logger.debug("checksums will be computed again next time: %s", error.strerror)


def _entry(path: Path, digest: str) -> list[int | str]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, digest]


def _read(path: Path) -> dict[str, list[int | str]]:
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}
