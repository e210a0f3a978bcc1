"""Content-addressed storage of file contents, in memory or on disk.

The key of a blob is the SHA-256 of its bytes. On disk, a blob is written under a temporary name
and renamed when it is complete, so that no reader sees a partial file. Reads and writes are in
chunks: on disk, memory use does not depend on the size of a file.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO, Self

CHUNK_SIZE = 1 << 20


@dataclass(frozen=True)
class Blob:
    """A stored blob: its SHA-256 as hex digits, and its size in bytes."""

    sha256: str
    size: int

    @property
    def lfs_pointer(self) -> bytes:
        """The Git LFS pointer file for this blob."""
        version = "version https://git-lfs.github.com/spec/v1"
        return f"{version}\noid sha256:{self.sha256}\nsize {self.size}\n".encode()


class BlobWriter:
    """Context manager that writes a new blob, and discards it unless :meth:`finish` is called."""

    def __init__(self, store: "BlobStore", file: IO[bytes]) -> None:
        self._store = store
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store._close(self._file)

    def write(self, chunk: bytes) -> None:
        """Append `chunk`."""
        self._digest.update(chunk)
        self._file.write(chunk)
        self._size += len(chunk)

    @property
    def blob(self) -> Blob:
        """Digest and size of the bytes written so far."""
        return Blob(self._digest.hexdigest(), self._size)

    def finish(self) -> Blob:
        """Add the blob to the store and return it."""
        self._store._add(self._file, self.blob.sha256)
        return self.blob


class BlobStore:
    """All blobs, as files ``root/blobs/ab/abcd...``, or in memory if `root` is None."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self._memory: dict[str, bytes] = {}
        if root is not None:
            self._incoming = root / "incoming"
            self._incoming.mkdir(parents=True, exist_ok=True)
            for leftover in self._incoming.iterdir():  # of a process that was killed
                leftover.unlink()

    def _path(self, sha256: str) -> Path | None:
        return self._root / "blobs" / sha256[:2] / sha256 if self._root else None

    def __contains__(self, sha256: str) -> bool:
        path = self._path(sha256)
        return path.is_file() if path else sha256 in self._memory

    def open(self, sha256: str) -> BufferedReader | BytesIO:
        """Open a blob for reading. Raises KeyError if it is not stored, as all readers do."""
        path = self._path(sha256)
        try:
            return path.open("rb") if path else BytesIO(self._memory[sha256])
        except FileNotFoundError:
            raise KeyError(sha256) from None

    def writer(self) -> BlobWriter:
        """Return a writer for a new blob."""
        if self._root is None:
            return BlobWriter(self, BytesIO())
        return BlobWriter(self, tempfile.NamedTemporaryFile(dir=self._incoming, delete=False))

    def _add(self, file: IO[bytes], sha256: str) -> None:
        path = self._path(sha256)
        if path is None:
            file.seek(0)
            self._memory.setdefault(sha256, file.read())
            return
        file.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(file.name).replace(path)

    def _close(self, file: IO[bytes]) -> None:
        file.close()
        if self._root is not None:
            Path(file.name).unlink(missing_ok=True)

    def add(self, source: bytes | Path) -> Blob:
        """Store bytes, or the contents of a file, and return the blob."""
        with self.writer() as writer:
            with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
                while chunk := file.read(CHUNK_SIZE):
                    writer.write(chunk)
            return writer.finish()

    def size(self, sha256: str) -> int:
        """Return the size of a blob."""
        with self.open(sha256) as file:
            return file.seek(0, os.SEEK_END)

    def chunks(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield bytes ``start:stop`` of a blob."""
        remaining = (self.size(sha256) if stop is None else stop) - start
        with self.open(sha256) as file:
            file.seek(start)
            while remaining > 0 and (chunk := file.read(min(CHUNK_SIZE, remaining))):
                remaining -= len(chunk)
                yield chunk

    def read(self, sha256: str) -> bytes:
        """Return all bytes of a blob."""
        with self.open(sha256) as file:
            return file.read()

    def git_oid(self, blob: Blob) -> str:
        """Return the id that git gives to a file with these bytes."""
        header = hashlib.sha1(b"blob %d\0" % blob.size, usedforsecurity=False)
        with self.open(blob.sha256) as file:
            return hashlib.file_digest(file, lambda: header).hexdigest()
