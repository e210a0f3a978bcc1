"""The files that visitors upload: how many bytes each may, and when they are deleted."""

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from gradio.utils import get_upload_folder

from limits.hourly import PERIOD, HourlyShare
from work.jobs import SpaceError

OF_ADDRESS, IN_TOTAL = 5, 20
"""Largest files that an address may upload in an hour, and that are kept of all addresses."""
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

    A file that nobody uses is kept for an hour. One that comes in counts on the disk with what has
    come, so that one which was announced and never comes takes no room.

    Attributes:
        largest: bytes of the largest file that may be uploaded, as it is sent.
    """

    def __init__(self, max_bytes: int = 100_000_000) -> None:
        self._lock = threading.Lock()
        self._coming: list[Callable[[], int]] = []
        self._stored: dict[Path, _Stored] = {}  # the oldest first
        self._used: WeakValueDictionary[Path, Upload] = WeakValueDictionary()
        self.limit(max_bytes)

    def limit(self, max_bytes: int) -> None:
        """Set the size of the largest file, which all limits are multiples of."""
        self._max_bytes, self.largest = max_bytes, max_bytes + _HEAD
        most = OF_ADDRESS * max_bytes
        self._of_address = HourlyShare(most, f"uploaded {most // 1_000_000:,} MB")

    def begin(self, address: str, size: int, arrived: Callable[[], int]) -> str:
        """Begin an upload, deleting the oldest unused ones; return why not, or "".

        Args:
            address: of the visitor.
            size: announced number of bytes.
            arrived: returns how many of them have come in.
        """
        with self._lock:
            if size > self.largest:
                return f"The file is larger than {self._max_bytes // 1_000_000:,} MB."
            try:
                self._of_address.check(address, size)
            except SpaceError as error:
                return f"{error}. {error.hint}"
            if not self._make_room(size):
                return "The files of other visitors leave no room. Try again in a few minutes."
            self._of_address.add(address, max(size, _LEAST))
            self._coming.append(arrived)
            return ""

    def end(self, address: str, arrived: Callable[[], int], paths: Sequence[str]) -> None:
        """End an upload that has begun: note the files that it was stored in."""
        with self._lock:
            self._coming.remove(arrived)
            self._of_address.add(address, max(0, len(paths) - 1) * _LEAST)  # one file counts yet
            for path in (Path(path).resolve() for path in paths):
                self._stored.pop(path, None)
                with suppress(OSError):
                    self._stored[path] = _Stored(path.stat().st_size, time.monotonic())
            self._make_room(0)  # others that began at the same time may have come in too

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

    def _make_room(self, size: int) -> bool:
        """Delete files that are old, then the oldest unused ones until there is room."""
        now = time.monotonic()
        _delete_abandoned()
        kept = {path: upload for path, upload in self._stored.items() if path.exists()}
        coming = sum(arrived() for arrived in self._coming)
        total = sum(upload.size for upload in kept.values()) + coming + size
        for path, upload in kept.items():
            old = now - upload.at > PERIOD
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
