"""Limit how many bytes each visitor may upload, and delete uploaded files.

A file is deleted when the visit or the call that uses it ends; Gradio deletes others after an hour
(`delete_cache` in `page.py`). So an address has at most an hour's uploads on the disk, and all
uploads together leave `SPARE_BYTES` free.
"""

import shutil
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes
from typing import Any

from gradio import route_utils
from gradio.utils import get_upload_folder

from space_error import SpaceError
from visitors.hourly import HourlyShare

OF_ADDRESS = 5
"""How many files of the largest size an address may upload in an hour."""
SPARE_BYTES = 2_000_000_000
"""Bytes that uploads leave free on the disk."""
_ABANDONED_SECONDS = 120
"""How long an upload may send nothing before its partial file is deleted."""
_LEAST = 1_000_000
"""Fewest bytes that an upload counts as."""
_HEAD = 100_000
"""Bytes that a browser adds to a file when it sends it."""


class Uploads:
    """Counts the bytes of uploads by address; thread-safe.

    Args:
        max_bytes: size of the largest file, which all limits are multiples of.

    Attributes:
        largest: bytes of the largest file that may be uploaded, as it is sent.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self.largest = max_bytes, max_bytes + _HEAD
        most = OF_ADDRESS * max_bytes
        self._of_address = HourlyShare(most, f"uploaded {most // 1_000_000:,} MB")

    def count(self, address: str, size: int) -> str:
        """Count an upload of an announced number of bytes; return why it is refused, or ""."""
        if size > self.largest:
            return f"The file is larger than {self._max_bytes // 1_000_000:,} MB."
        try:
            self._of_address.check(address, size)
        except SpaceError as error:
            return f"{error}. {error.hint}"
        folder = Path(get_upload_folder())
        folder.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(folder)
        if shutil.disk_usage(folder).free < size + SPARE_BYTES:
            return "The files of other visitors leave no room. Try again in a few minutes."
        self._of_address.add(address, max(size, _LEAST))
        return ""


class Upload:
    """An uploaded file that somebody uses; it is deleted with this object."""

    def __init__(self, path: Path) -> None:
        weakref.finalize(self, _delete, path)


_LOCK = threading.Lock()
_USED: weakref.WeakValueDictionary[Path, Upload] = weakref.WeakValueDictionary()
"""A page and a call may use the same upload."""


class _OwnFile(route_utils.GradioUploadFile):
    """An uploaded file that is stored apart from another visitor's of the same bytes and name."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.sha.update(token_bytes(16))  # which names its folder


def store_uploads_apart() -> None:
    """Give each upload a path of its own; Gradio names the folder of a file after its bytes."""
    route_utils.GradioUploadFile = _OwnFile  # type: ignore[misc]


def hold_upload(name: str) -> Upload | None:
    """Keep an uploaded file as long as the returned object exists; None if it is not an upload."""
    if not is_upload(name):
        return None
    path = Path(name).resolve()
    with _LOCK:
        upload = _USED.get(path) or Upload(path)
        _USED[path] = upload
        return upload


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
    with suppress(OSError):  # other files are there, too
        path.parent.rmdir()


def _delete_abandoned(folder: Path) -> None:
    """Delete the partial files of uploads that broke off, which Gradio would keep forever."""
    oldest = time.time() - _ABANDONED_SECONDS
    for path in folder.iterdir():
        with suppress(OSError):
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink()
