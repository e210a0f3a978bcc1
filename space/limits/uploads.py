"""The files that visitors upload: how many bytes each may, and when they are deleted."""

import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from gradio.utils import get_upload_folder

OF_ADDRESS, IN_TOTAL = 5, 20
"""Largest files that an address may upload in an hour, and that are kept of all addresses."""
SECONDS = 3600
"""How long an upload counts, and is kept if nobody uses it."""
_ABANDONED_SECONDS = 120
"""How long an upload may send nothing before what came of it is deleted."""
_LEAST = 1_000_000
"""Bytes that any file counts as."""
_HEAD = 100_000
"""Bytes that a browser adds to a file when it sends it."""


class Upload:
    """An uploaded file that somebody uses; deleted when nobody does any longer."""


@dataclass(frozen=True)
class _Stored:
    size: int
    at: float


class Uploads:
    """Counts the bytes of uploads by address and on the disk; all methods are thread-safe.

    Attributes:
        largest: bytes of the largest file that may be uploaded, as it is sent.
    """

    def __init__(self, max_bytes: int = 100_000_000) -> None:
        self._lock = threading.Lock()
        self._counted: dict[str, deque[tuple[float, int]]] = {}
        self._reserved = 0
        self._stored: dict[Path, _Stored] = {}  # the oldest first
        self._used: WeakValueDictionary[Path, Upload] = WeakValueDictionary()
        self.limit(max_bytes)

    def limit(self, max_bytes: int) -> None:
        """Set the size of the largest file, which all limits are multiples of."""
        self._max_bytes, self.largest = max_bytes, max_bytes + _HEAD

    def reserve(self, address: str, size: int) -> str:
        """Reserve room for an upload, deleting the oldest unused ones; return why not, or ""."""
        with self._lock:
            now, megabytes = time.monotonic(), self._max_bytes // 1_000_000
            if size > self.largest:
                return f"The file is larger than {megabytes:,} MB."
            if self._bytes_of(address, now) + size > OF_ADDRESS * self._max_bytes:
                return (
                    f"More than {OF_ADDRESS * megabytes:,} MB were uploaded from your address "
                    "within an hour. Try again later, or run hf-lorameta on your own machine."
                )
            if not self._make_room(size, now):
                return "The files of other visitors leave no room. Try again in a few minutes."
            counted = self._counted.setdefault(address, deque())
            counted.append((now, max(size, _LEAST)))
            self._reserved += size
            return ""

    def settle(self, address: str, size: int, paths: Sequence[str]) -> None:
        """End an upload that had reserved room: note the files that it was stored in."""
        with self._lock:
            self._reserved -= size
            more = max(0, len(paths) - 1) * _LEAST  # `reserve` counted one file
            self._counted.setdefault(address, deque()).append((time.monotonic(), more))
            for path in (Path(path).resolve() for path in paths):
                self._stored.pop(path, None)
                with suppress(OSError):
                    self._stored[path] = _Stored(path.stat().st_size, time.monotonic())

    def use(self, name: str) -> Upload | None:
        """Keep an uploaded file for as long as the returned object; None if it is no upload."""
        path = Path(name).resolve()
        with self._lock:
            if path not in self._stored:
                return None
            upload = self._used.get(path)
            if upload is None:
                self._used[path] = upload = Upload()
                weakref.finalize(upload, _delete, path)
            return upload

    def _bytes_of(self, address: str, now: float) -> int:
        """Return the bytes that an address uploaded within the last `SECONDS`."""
        for name, counted in list(self._counted.items()):
            while counted and now - counted[0][0] > SECONDS:
                counted.popleft()
            if not counted:
                del self._counted[name]
        return sum(size for _, size in self._counted.get(address, ()))

    def _make_room(self, size: int, now: float) -> bool:
        """Delete files that are old, then the oldest unused ones until there is room."""
        _delete_abandoned()
        kept = {path: upload for path, upload in self._stored.items() if path.exists()}
        total = sum(upload.size for upload in kept.values()) + self._reserved + size
        for path, upload in kept.items():
            old = now - upload.at > SECONDS
            if path not in self._used and (old or total > IN_TOTAL * self._max_bytes):
                _delete(path)
                total -= upload.size
        self._stored = {path: upload for path, upload in kept.items() if path.exists()}
        return total <= IN_TOTAL * self._max_bytes


def is_upload(name: str) -> bool:
    """Whether a path is that of a file in the folder of uploads."""
    try:
        path, folder = Path(name).resolve(), Path(get_upload_folder()).resolve()
        return path.is_relative_to(folder) and path.is_file()
    except (OSError, ValueError):  # such as a name that is too long
        return False


def _delete(path: Path) -> None:
    """Delete a file, and the folder that Gradio made for it."""
    path.unlink(missing_ok=True)
    with suppress(OSError):  # others lie there too
        path.parent.rmdir()


def _delete_abandoned() -> None:
    """Delete what came of uploads that broke off, which Gradio keeps beside its folders."""
    folder, oldest = Path(get_upload_folder()), time.time() - _ABANDONED_SECONDS
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink()


UPLOADS = Uploads()
"""Those of this server."""
