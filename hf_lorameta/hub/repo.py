"""Repo ids, and repos pinned to a commit."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # lazy re-export

Token = str | Literal[False] | None
"""A token, None for the saved one, False for none."""
_CHUNK_BYTES = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


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


def card_license(card: object) -> str | None:
    """Return the license that the metadata of a card state, by its name if its id is ``other``.

    Example:
        >>> card_license({"license": "mit"}), card_license({"license": ["mit"]}), card_license(None)
        ('mit', None, None)
        >>> card_license({"license": "other", "license_name": "my-terms"})
        'my-terms'
    """
    if not isinstance(card, Mapping):
        return None
    stated, name = card.get("license"), card.get("license_name")
    if stated == "other" and isinstance(name, str) and name.strip():
        stated = name
    return stated if isinstance(stated, str) else None


@dataclass(frozen=True)
class Blob:
    """Size in bytes and digest of a file on the Hub."""

    size: int
    digest: str | None  # hexadecimal; None if the server gives none
    large: bool  # the digest is SHA-256 (of git-LFS, Xet), else git's blob id

    def hasher(self) -> Any:
        """Return a `hashlib` object that yields `digest` once updated with the content."""
        if self.large:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def matches(self, file: BinaryIO) -> bool:
        """Return whether an open file has this content, or this size if there is no digest."""
        hasher, size = self.hasher(), 0
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
        return size == self.size and self.digest in (None, hasher.hexdigest())


def read_blob(item: Mapping[str, Any]) -> Blob | None:
    """Read size and digest of a file in a repo's info or tree; None if its size is missing.

    Example:
        >>> read_blob({"path": "a", "size": 3, "oid": "ab" * 20}).large
        False
        >>> read_blob({"rfilename": "a", "lfs": {"size": 3, "sha256": "ab" * 32}}).large
        True
        >>> read_blob({"path": "a", "size": 3}).digest is None
        True
    """
    lfs = item.get("lfs")
    lfs = lfs if isinstance(lfs, Mapping) else {}
    size = lfs.get("size", item.get("size"))
    if not isinstance(size, int):
        return None
    # the git id of a large file is that of its pointer
    git_id = None if lfs else item.get("blobId") or item.get("oid")
    digest = str(lfs.get("sha256") or lfs.get("oid") or git_id).removeprefix("sha256:")
    if SHA256.fullmatch(digest):
        return Blob(size, digest, large=True)
    return Blob(size, digest if _SHA1.fullmatch(digest) else None, large=False)


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
    verify: bool = False  # whether downloads are compared with the digests of the Hub
