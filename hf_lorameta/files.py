"""Atomic writes and SHA-256 digests of files."""

import hashlib
import os
from io import BufferedWriter
from pathlib import Path


def sha256(path: Path) -> str:
    """Return a file's hex digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class AtomicFile:
    """Context manager that writes a file under a temporary name and renames it at the end.

    The temporary file is in the same folder. If the block raises, it is removed and an existing
    file at `path` is untouched.

    Args:
        path: the file to write or replace.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self) -> BufferedWriter:
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
    """Write a small file as `AtomicFile` does."""
    with AtomicFile(path) as file:
        file.write(content)
