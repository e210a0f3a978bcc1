"""The files of a bank: in its folder, or fetched from its repo when needed, and verified."""

import hashlib
import json
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from hf_lorameta.bank.index import INDEX_FILE, WORK_FOLDER
from hf_lorameta.errors import BankError, IntegrityError
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.safetensors import read_range
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo

NAME_HINT = f"name a folder with {INDEX_FILE}, or the Hub id of a bank"
_CHECKSUMS_FILE = f"{WORK_FOLDER}/seen.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remote:
    """Where the files of a bank are fetched from.

    Attributes:
        hub: the client.
        repo: the bank's repo at a commit.
    """

    hub: Hub
    repo: PinnedRepo


class BankFiles:
    """The files of a bank, by their names.

    Args:
        folder: of the bank.
        id: of the bank, for messages.
        remote: where files that the folder lacks are fetched from; None if it lacks none.
    """

    def __init__(self, folder: Path, id: str, remote: Remote | None) -> None:
        self.folder, self.id, self.remote = folder, id, remote
        self._checksums = ChecksumCache(folder / _CHECKSUMS_FILE)

    def has(self, name: str) -> bool:
        """Whether a file need not be fetched."""
        return (self.folder / name).exists()

    def path(self, name: str) -> Path:
        """Return the path of a file, which is fetched if needed.

        Raises:
            BankError: it is missing.
        """
        if self.has(name):
            return self.folder / name
        remote = self._source(name)
        return remote.hub.download(remote.repo, name)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return a range of bytes of a file; of one that is not here, nothing else is fetched."""
        if self.has(name):
            return read_range(self.folder / name, start, stop, BankError)
        remote = self._source(name)
        return remote.hub.read_range(remote.repo, name, start, stop)

    def _source(self, name: str) -> Remote:
        if self.remote is not None:
            return self.remote
        if name == INDEX_FILE:
            raise BankError(
                f"{self.folder} is not the folder of a bank",
                hint="hf download user/bank --repo-type dataset --local-dir DIR makes one of a "
                "bank on the Hub",
            )
        raise BankError(
            f"{self.folder} holds no {name}",
            hint="copy the whole folder again, or rebuild it with hf-lorameta bank build",
        )

    def verified(self, name: str, digest: str | None) -> Path:
        """Return the path of a file; if its digest is another, delete it if it was fetched.

        Raises:
            BankError: it is missing.
            IntegrityError: its digest is another.
        """
        local, path = self.has(name), self.path(name)
        if self._checksums.verify(name, path, digest):
            return path
        if local:
            raise self.differs(f"{path}: checksum differs from the index")
        delete_download(path)
        raise self._wrong_in_repo(name)

    def store(self, name: str, content: bytes, digest: str) -> None:
        """Write a file that was fetched as a part of another, unless its digest is wrong.

        Raises:
            IntegrityError: its digest is another.
        """
        if hashlib.sha256(content).hexdigest() != digest:
            wrong = self._wrong_in_repo(name)
            raise wrong if self.remote else self.differs(str(wrong))
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        self._checksums.record(name, path, digest)

    def save_checksums(self) -> None:
        """Store which files were verified, in a folder where the bank was built."""
        if self.has(WORK_FOLDER):
            self._checksums.save()

    def differs(self, message: str) -> IntegrityError:
        """Return the error for a file of the folder that is not as the index says."""
        return IntegrityError(message, hint="delete it, and build or download the bank again")

    def _wrong_in_repo(self, name: str) -> IntegrityError:
        return IntegrityError(
            f"{name} of {self.id}: checksum differs from the index",
            hint=f"download it again; if that does not help, report it to the owner of {self.id}",
        )


def delete_download(path: Path) -> None:
    """Delete a file that was fetched; in the Hub cache, its path is a link."""
    target = path.resolve()
    path.unlink()
    target.unlink(missing_ok=True)


# --- checksums ------------------------------------------------------------------------------------


class ChecksumCache:
    """Verified SHA-256 digests in a JSON file, which need not exist. Threads may share one.

    A file whose size and modification time have not changed is taken as unchanged, as Git and make
    do; ``bank verify`` computes every digest again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries = _read_checksums(path)
        self._changed = False

    def verify(self, name: str, path: Path, digest: str | None) -> bool:
        """Return whether a file, `name` in the cache, has this SHA-256; None never matches."""
        if digest is None:
            return False
        with self._lock:
            if self._entries.get(name) == _stamp(path, digest):
                return True
        if sha256(path) != digest:
            return False
        self.record(name, path, digest)
        return True

    def record(self, name: str, path: Path, digest: str) -> None:
        """Add a file whose digest has just been computed."""
        with self._lock:
            self._entries[name] = _stamp(path, digest)
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


def _stamp(path: Path, digest: str) -> list[int | str]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, digest]


def _read_checksums(path: Path) -> dict[str, list[int | str]]:
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}
