"""Which files were found right, so that gigabytes are not hashed at every start.

A file that has the size and the time of change it had when its checksum was last right is taken
for unchanged, as git and make do. Who wants certainty hashes again (``bank verify``).
"""

import hashlib
import os
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class AtomicFile:
    """A file that takes its name only when it is whole and on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self) -> Any:
        self._file = self._partial.open("wb")
        return self._file

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            with self._file:
                if failed is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if failed is None:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file under a temporary name, then rename it."""
    with AtomicFile(path) as file:
        file.write(content)
