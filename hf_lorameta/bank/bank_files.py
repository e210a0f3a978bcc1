"""The files of a bank: in its folder, or fetched from its repo when needed, and verified."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from hf_lorameta.bank.index import INDEX_FILE, TOKENIZER_FILE
from hf_lorameta.errors import BankError, IntegrityError
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.safetensors import read_range
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo


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
    """Access to the files of a bank by name: local, or fetched when needed.

    Args:
        folder: of the bank.
        remote: where missing files are fetched from; None if the folder is complete.
    """

    def __init__(self, folder: Path, remote: Remote | None = None) -> None:
        self.folder, self.remote = folder, remote
        self._seen: dict[str, tuple[int, int, str]] = {}  # of verified files, by name

    def local(self, name: str) -> Path | None:
        """Return the path of a file in the folder; None if it has to be fetched.

        A tokenizer may be in the folder above, where several banks share it.
        """
        folders = [self.folder, self.folder.parent] if name == TOKENIZER_FILE else [self.folder]
        return next((folder / name for folder in folders if (folder / name).exists()), None)

    def has(self, name: str) -> bool:
        """Whether a file is in the folder."""
        return self.local(name) is not None

    def path(self, name: str) -> Path:
        """Return the path of a file, fetching it if needed.

        Raises:
            BankError: it is missing.
        """
        if path := self.local(name):
            return path
        remote = self._source(name)
        return remote.hub.download(remote.repo, name)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return a range of bytes of a file; if it is not local, only that range is fetched."""
        if self.has(name):
            return read_range(self.folder / name, start, stop, BankError)
        remote = self._source(name)
        return remote.hub.read_range(remote.repo, name, start, stop)

    def _source(self, name: str) -> Remote:
        if self.remote is not None:
            return self.remote
        problem = "is not the folder of a bank" if name == INDEX_FILE else f"holds no {name}"
        raise BankError(
            f"{self.folder} {problem}",
            code="bank.not-a-bank",
            hint="get a whole bank: hf download user/bank --repo-type dataset --local-dir DIR, or "
            "build it again with hf-lorameta bank build",
        )

    def verified(self, name: str, digest: str | None) -> Path:
        """Return the path of a file with the right digest; a fetched file with another is deleted.

        A file is hashed again only if its size or modification time has changed.

        Raises:
            BankError: it is missing.
            IntegrityError: its digest is another.
        """
        local, path = self.has(name), self.path(name)
        if digest is not None:
            stamp = _stamp(path, digest)
            if self._seen.get(name) == stamp or sha256(path) == digest:
                self._seen[name] = stamp
                return path
        if not local:
            delete_download(path)
        raise self.differs(f"{path}: checksum differs from the index")

    def store(self, name: str, content: bytes, digest: str) -> None:
        """Write a file that was fetched as part of a shard, after checking its digest.

        Raises:
            IntegrityError: its digest is another.
        """
        path = self.folder / name
        if hashlib.sha256(content).hexdigest() != digest:
            raise self.differs(f"{path}: checksum differs from the index")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        self._seen[name] = _stamp(path, digest)

    def differs(self, message: str) -> IntegrityError:
        """Return the error for a file that differs from the index."""
        return IntegrityError(
            message,
            code="bank.wrong-checksums",
            hint="delete it, and build or download the bank again; if that does not help, report "
            "it to the bank's owner",
        )


def _stamp(path: Path, digest: str) -> tuple[int, int, str]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, digest


def delete_download(path: Path) -> None:
    """Delete a fetched file; in the Hub cache, the path and the blob it links to."""
    target = path.resolve()
    path.unlink()
    target.unlink(missing_ok=True)
