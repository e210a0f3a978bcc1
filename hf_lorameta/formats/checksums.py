"""Which files were found right, so that gigabytes are not hashed at every start.

A file that has the size and the time of change it had when its checksum was last right is taken
for unchanged, as git and make do. Who wants certainty hashes again (``bank verify``).
"""

import json
import logging
import threading
from pathlib import Path

from hf_lorameta.files import sha256, write_atomically

logger = logging.getLogger(__name__)
Stamp = list[int | str]


class ChecksumCache:
    """Sizes, times of change and digests of files that were right.

    Args:
        path: where they are kept; read when first needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._kept: dict[str, Stamp] | None = None
        self._seen: dict[str, Stamp] = {}

    def verify(self, name: str, path: Path, digest: str | None) -> bool:
        """Says whether a file has this SHA-256, hashing it unless it is known.

        Args:
            name: of the file, by which it is known.
            path: where it lies.
            digest: what is expected.
        """
        with self._lock:
            if self._kept is None:
                self._kept = _read(self._path)
                self._seen = self._kept | self._seen
            known = self._seen.get(name)
        if known == _stamp(path, digest):
            return True
        if sha256(path) != digest:
            return False
        self.record(name, path, digest)
        return True

    def record(self, name: str, path: Path, digest: str) -> None:
        """Take note of a file whose digest was computed just now."""
        stamp = _stamp(path, digest)
        with self._lock:
            self._seen[name] = stamp

    def save(self) -> None:
        """Write them down, if there is something new and the place can be written."""
        with self._lock:
            if self._seen == (self._kept or {}):
                return
            self._kept = dict(self._seen)
        content = json.dumps(self._kept, indent=0, sort_keys=True).encode()
        try:
            self._path.parent.mkdir(exist_ok=True)
            write_atomically(self._path, content)
        except OSError as error:
            logger.debug("checksums will be computed again next time: %s", error.strerror)


def _stamp(path: Path, digest: str | None) -> Stamp:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, digest or ""]


def _read(path: Path) -> dict[str, Stamp]:
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}
