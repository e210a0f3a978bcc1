"""Repo ids, and repos pinned to a commit."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # lazy re-export

_CHUNK_BYTES = 1 << 20


def is_repo_id(text: str) -> bool:
    """Return whether a text is a valid repo id with a namespace.

    Example:
        >>> is_repo_id("user/name"), is_repo_id("name"), is_repo_id("../name")
        (True, False, False)
    """
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


@dataclass(frozen=True)
class Blob:
    """Size in bytes and digest of a file on the Hub."""

    size: int
    digest: str  # hexadecimal: SHA-256 of a large file (git-LFS, Xet), git's blob id of others
    large: bool

    @classmethod
    def from_sibling(cls, sibling: Any) -> "Blob | None":
        """Read a `huggingface_hub.hf_api.RepoSibling`; None if it has no digest."""
        if sibling.size is None or not sibling.blob_id:
            return None
        if sibling.lfs:
            return cls(int(sibling.lfs.size), str(sibling.lfs.sha256), large=True)
        return cls(int(sibling.size), str(sibling.blob_id), large=False)

    def hasher(self) -> Any:
        """Return a `hashlib` object that yields `digest` once updated with the content."""
        if self.large:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def matches(self, path: Path) -> bool:
        """Return whether a local file has this content."""
        hasher = self.hasher()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                hasher.update(chunk)
        return bool(hasher.hexdigest() == self.digest)


@dataclass(frozen=True)
class PinnedRepo:
    """A repo at one commit."""

    repo_id: str
    repo_type: str  # model, dataset or space
    sha: str
    private: bool = False
    gated: bool = False
    license: str | None = None  # stated on the repo's card
    files: tuple[str, ...] = ()
    blobs: Mapping[str, Blob] = field(default_factory=dict, repr=False)  # by path, if requested
