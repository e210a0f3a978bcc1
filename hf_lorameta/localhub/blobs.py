"""Where the bytes of files live: content-addressed blobs, in memory or on disk.

A blob is known by the sha256 of its bytes. On disk it is written under a temporary name, checked,
and renamed into place, so a reader never sees half a file and a crash leaves no wrong one. Bytes
pass in chunks both ways: memory does not grow with the size of a file.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

CHUNK = 1 << 20


@dataclass(frozen=True)
class Blob:
    """A stored blob.

    Attributes:
        sha256: hex digest of the bytes, the key of the blob.
        size: number of bytes.
    """

    sha256: str
    size: int


class BlobWriter:
    """Takes the bytes of one blob, chunk by chunk, and hashes them on the way.

    Args:
        sink: an open binary file the bytes are written to.
        store: the store that keeps the file on :meth:`finish`.
    """

    def __init__(self, sink: IO[bytes], store: "BlobStore") -> None:
        self._sink = sink
        self._store = store
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Appends `chunk`."""
        self._digest.update(chunk)
        self._sink.write(chunk)
        self.size += len(chunk)

    @property
    def sha256(self) -> str:
        """Hex digest of what was written so far."""
        return self._digest.hexdigest()

    def finish(self) -> Blob:
        """Stores the blob for good and returns it."""
        blob = Blob(self.sha256, self.size)
        self._store.keep(self._sink, blob)
        return blob

    def discard(self) -> None:
        """Throws away what was written."""
        self._store.drop(self._sink)


class BlobStore(Protocol):
    """What both stores can do."""

    def writer(self) -> BlobWriter:
        """Returns a writer for one new blob."""

    def keep(self, sink: IO[bytes], blob: Blob) -> None:
        """Moves a finished `sink` to its place."""

    def drop(self, sink: IO[bytes]) -> None:
        """Closes and removes an unfinished `sink`."""

    def has(self, sha256: str) -> bool:
        """Says whether the blob is stored."""

    def size(self, sha256: str) -> int:
        """Returns the blob's size. Raises KeyError if it is not stored."""

    def chunks(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yields bytes ``start:stop`` of a blob. Raises KeyError if it is not stored."""


class MemoryBlobs:
    """Blobs in a dict; for tests and demos of moderate size."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def writer(self) -> BlobWriter:
        """Returns a writer for one new blob."""
        # memory first, and a file once it is larger than 8 MB
        sink: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=8 << 20)  # noqa: SIM115
        return BlobWriter(sink, self)

    def keep(self, sink: IO[bytes], blob: Blob) -> None:
        """Moves a finished `sink` into the dict."""
        with sink:
            if blob.sha256 not in self._blobs:
                sink.seek(0)
                self._blobs[blob.sha256] = sink.read()

    def drop(self, sink: IO[bytes]) -> None:
        """Closes an unfinished `sink`."""
        sink.close()

    def has(self, sha256: str) -> bool:
        """Says whether the blob is stored."""
        return sha256 in self._blobs

    def size(self, sha256: str) -> int:
        """Returns the blob's size. Raises KeyError if it is not stored."""
        return len(self._blobs[sha256])

    def chunks(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yields bytes ``start:stop`` of a blob. Raises KeyError if it is not stored."""
        view = memoryview(self._blobs[sha256])[start:stop]
        for at in range(0, len(view), CHUNK):
            yield bytes(view[at : at + CHUNK])


class DiskBlobs:
    """Blobs as files ``root/blobs/ab/abcd...``.

    Args:
        root: the hub's folder; made if missing.
    """

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._incoming = root / "incoming"
        for folder in (self._blobs, self._incoming):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._incoming.iterdir():  # of a hub that was killed
            leftover.unlink()

    def _path(self, sha256: str) -> Path:
        return self._blobs / sha256[:2] / sha256

    def writer(self) -> BlobWriter:
        """Returns a writer for one new blob."""
        sink = tempfile.NamedTemporaryFile(dir=self._incoming, delete=False)  # noqa: SIM115
        return BlobWriter(sink, self)

    def keep(self, sink: IO[bytes], blob: Blob) -> None:
        """Renames a finished `sink` to its place."""
        sink.close()
        target = self._path(blob.sha256)
        target.parent.mkdir(exist_ok=True)
        Path(sink.name).replace(target)

    def drop(self, sink: IO[bytes]) -> None:
        """Closes and removes an unfinished `sink`."""
        sink.close()
        Path(sink.name).unlink(missing_ok=True)

    def has(self, sha256: str) -> bool:
        """Says whether the blob is stored."""
        return self._path(sha256).is_file()

    def size(self, sha256: str) -> int:
        """Returns the blob's size. Raises KeyError if it is not stored."""
        if not self.has(sha256):
            raise KeyError(sha256)
        return self._path(sha256).stat().st_size

    def chunks(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yields bytes ``start:stop`` of a blob. Raises KeyError if it is not stored."""
        left = (self.size(sha256) if stop is None else stop) - start
        with self._path(sha256).open("rb") as file:
            file.seek(start)
            while left > 0 and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk


def read(store: BlobStore, sha256: str) -> bytes:
    """Returns all bytes of a blob. Raises KeyError if it is not stored."""
    return b"".join(store.chunks(sha256))


def store_file(store: BlobStore, source: bytes | Path) -> Blob:
    """Stores bytes, or the file at a path, and returns the blob."""
    writer = store.writer()
    try:
        if isinstance(source, bytes):
            writer.write(source)
        else:
            with source.open("rb") as file:
                while chunk := file.read(CHUNK):
                    writer.write(chunk)
    except BaseException:
        writer.discard()
        raise
    return writer.finish()


def git_oid(store: BlobStore, blob: Blob) -> str:
    """Returns the id git gives to a file of these bytes: sha1 of a header and the bytes.

    Example:
        >>> store = MemoryBlobs()
        >>> git_oid(store, store_file(store, b"hello\\n"))
        'ce013625030ba8dba906f756967f9e9ca394464a'
    """
    digest = hashlib.sha1(b"blob %d\0" % blob.size, usedforsecurity=False)
    for chunk in store.chunks(blob.sha256):
        digest.update(chunk)
    return digest.hexdigest()


def pointer_text(blob: Blob) -> bytes:
    """Returns the git-LFS pointer file that stands in git for a large blob."""
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{blob.sha256}\nsize {blob.size}\n"
    ).encode()


def pointer_oid(blob: Blob) -> str:
    """Returns the git id of the pointer file of a large blob."""
    text = pointer_text(blob)
    return hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
