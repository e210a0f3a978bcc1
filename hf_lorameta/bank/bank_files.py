"""The files of a bank: in its folder, or fetched from its repo when needed, and verified."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hf_lorameta.bank.index import INDEX_FILE, ORIGIN_FILE, WORK_FOLDER
from hf_lorameta.errors import BankError, IntegrityError
from hf_lorameta.files import write_atomically
from hf_lorameta.formats.checksums import ChecksumCache
from hf_lorameta.formats.safetensors import read_range
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo

NAME_HINT = f"name a folder with {INDEX_FILE}, or the Hub id of a bank"
_CHECKSUMS_FILE = f"{WORK_FOLDER}/seen.json"


@dataclass(frozen=True)
class Remote:
    """Where the files of a bank are fetched from.

    Attributes:
        hub: the client.
        repo: the bank's repo at a commit.
        folder: to download to; None is the cache of `huggingface_hub`.
    """

    hub: Hub
    repo: PinnedRepo
    folder: Path | None = None

    @cached_property
    def listed(self) -> frozenset[str]:
        """The files of the repo."""
        repo = self.repo
        if not repo.files:  # known by a commit only
            repo = self.hub.resolve(repo.repo_id, "dataset", repo.sha)
        return frozenset(repo.files)

    def download(self, name: str) -> Path:
        """Fetch a whole file; return its path."""
        return self.hub.download(self.repo, name, self.folder)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Fetch a range of bytes of a file."""
        return self.hub.read_range(self.repo, name, start, stop)


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
        return self._source(name).download(name)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return a range of bytes of a file; of one that is not here, nothing else is fetched."""
        if self.has(name):
            return read_range(self.folder / name, start, stop, BankError)
        return self._source(name).read(name, start, stop)

    def _source(self, name: str) -> Remote:
        if self.remote is not None:
            return self.remote
        if name == INDEX_FILE:
            raise BankError(f"{self.folder} holds no bank", hint=NAME_HINT)
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
            raise self._wrong_in_repo(name)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        self._checksums.record(name, path, digest)

    def save_checksums(self) -> None:
        """Store which files were verified, except in the Hub cache and the embedded bank."""
        if self.has(WORK_FOLDER) or self.has(ORIGIN_FILE):
            self._checksums.save()

    def differs(self, message: str) -> IntegrityError:
        """Return the error for a file of the folder that is not as the index says."""
        return IntegrityError(message, hint="delete the folder, and build or pull the bank again")

    def _wrong_in_repo(self, name: str) -> IntegrityError:
        return IntegrityError(
            f"{name} of {self.id}: checksum differs from the index",
            hint=f"pull the bank again; if that does not help, report it to the owner of {self.id}",
        )


def delete_download(path: Path) -> None:
    """Delete a file that was fetched; in the Hub cache, its path is a link."""
    target = path.resolve()
    path.unlink()
    target.unlink(missing_ok=True)
