"""Repo ids, repos pinned to a commit, and the check of a target's visibility."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from os import SEEK_END
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # lazy re-export

from hf_lorameta.errors import ConflictError, Option

DATASET_LINK = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/([^/?#]+/[^/?#]+)"
)
"""Address of a dataset's page, or of one below it; its group is the repo id."""
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")

Token = str | Literal[False] | None
"""A token, None for the saved one, False for none."""


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


def is_hub_id(text: str) -> bool:
    """Return whether a text, which may be of anyone, can be shown as a repo id or a revision.

    Example:
        >>> is_hub_id("user/name"), is_hub_id("name"), is_hub_id("user/näme"), is_hub_id("a b")
        (True, True, False, False)
    """
    invalid = ".." in text or "--" in text
    return not invalid and len(text) <= 96 and _HUB_ID.fullmatch(text) is not None


ON_HUB = "hf://datasets/"
"""Begins the name of a dataset that is on the Hub, whatever is on this disk."""


def on_hub(repo_id: str) -> str:
    """Return the name of a dataset that is on the Hub, even if a local path is called the same.

    Example:
        >>> on_hub("user/name"), on_hub("hf://datasets/user/name")
        ('hf://datasets/user/name', 'hf://datasets/user/name')
    """
    return f"{ON_HUB}{repo_id.removeprefix(ON_HUB)}"


def card_license(card: object) -> str | None:
    """Return the license in a card's metadata: its id, or its name if the id is ``other``.

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
    digest: str | None  # hexadecimal; None if the server states none
    large: bool  # the digest is SHA-256 (of git-LFS, Xet), else git's blob id

    def hasher(self) -> Any:
        """Return a `hashlib` object that yields `digest` once updated with the content."""
        if self.large:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def matches(self, content: Path | bytes) -> bool:
        """Return whether a file, or its content, is this one."""
        with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            size = file.seek(0, SEEK_END)
            file.seek(0)
            if size != self.size or self.digest is None:
                return size == self.size
            return hashlib.file_digest(file, self.hasher).hexdigest() == self.digest


def blob_of(file: Any) -> Blob:
    """Return size and digest of a `huggingface_hub.RepoSibling` with file metadata."""
    if file.lfs is not None:  # the git id of a large file is that of its pointer
        return Blob(file.lfs.size, file.lfs.sha256, large=True)
    return Blob(file.size, file.blob_id, large=False)


@dataclass(frozen=True)
class PinnedRepo:
    """A repo at one commit."""

    repo_id: str
    repo_type: str  # model, dataset or space
    sha: str
    private: bool = False
    gated: bool = False
    license: str | None = None  # stated on the repo's card
    languages: tuple[str, ...] = ()  # stated on the repo's card
    files: tuple[str, ...] = ()
    # by path, if requested: downloads are compared with them
    blobs: Mapping[str, Blob] = field(default_factory=dict, repr=False)


def check_visibility(
    existing: PinnedRepo,
    private: bool | None,
    *,
    source_private: bool = False,
    source: str = "a dataset or adapter that it is made from is private",
) -> None:
    """Raise ConflictError if a repo's visibility is not as requested or exposes private content.

    ``create_repo(exist_ok=True)`` does not check: it ignores `private` when the repo exists.

    Args:
        existing: the target.
        private: requested visibility; None keeps the repo's own.
        source_private: whether what is published derives from private repos or files.
        source: clause that says what is private, for the message.
    """
    if private is not None and private != existing.private:
        actual, requested = ("private", "public") if existing.private else ("public", "private")
        raise ConflictError(
            f"{existing.repo_id} exists and is {actual}, but {requested} was requested",
            code="repo.other-visibility",
            hint=["change the visibility in the repo's settings on the Hub", "name another repo"],
        )
    if private is None and source_private and not existing.private:
        raise ConflictError(
            f"{existing.repo_id} is public, but {source}",
            code="repo.is-public",
            hint=[Option("private", False), "name another repo"],
        )
