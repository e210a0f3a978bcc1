"""Data model of a repo: files, commits and branches."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hf_lorameta.localhub import http_errors


class _Clock:
    """Return the time as ``2026-11-24T16:37:00.123Z``. Each call returns a later time."""

    def __init__(self) -> None:
        self._last = 0  # milliseconds
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self._last = max(self._last + 1, time.time_ns() // 1_000_000)
            seconds, milliseconds = divmod(self._last, 1000)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


now = _Clock()


@dataclass(frozen=True)
class Entry:
    """A file in a commit."""

    sha256: str  # key of the contents in `HubState.blobs`
    size: int
    oid: str  # git id of the file


def git_oid(data: bytes) -> str:
    """Return the id that git gives to a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


Tree = Mapping[str, Entry]
Changes = Mapping[str, Entry | None]  # None: the path is deleted


@dataclass(frozen=True)
class Commit:
    """A commit and its tree."""

    sha: str
    parent: str | None
    tree: Tree
    title: str
    message: str
    author: str
    date: str


@dataclass
class Repo:
    """A model, dataset or Space repo."""

    id: str  # namespace/name
    type: str  # model, dataset or space
    private: bool = False
    created: str = field(default_factory=now)
    refs: dict[str, str] = field(default_factory=dict)  # branch -> SHA
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """The user that owns the repo."""
        return self.id.rpartition("/")[0]

    @property
    def sha(self) -> str:
        """The head of ``main``."""
        return self.refs["main"]

    def resolve(self, revision: str) -> Commit:
        """Return the commit of a branch or a SHA."""
        commit = self.commits.get(self.refs.get(revision, revision))
        if commit is None:
            raise http_errors.revision_not_found(revision)
        return commit

    def tree_at(self, sha: str | None) -> Tree:
        """Return the tree of a commit; empty for None, the parent of the first commit."""
        return self.commits[sha].tree if sha else {}

    def add_commit(
        self, ref: str, changes: Changes, title: str, message: str, author: str
    ) -> Commit:
        """Add a commit to a branch and return it; the head if nothing changes."""
        parent = self.refs.get(ref)
        before = self.tree_at(parent)
        merged = {**before, **changes}
        tree = {path: entry for path, entry in merged.items() if entry is not None}
        if parent and tree == before:
            return self.commits[parent]
        date = now()
        identity = [self.type, self.id, parent, title, message, author, date, len(self.commits)]
        files = sorted((path, entry.oid) for path, entry in tree.items())
        sha = hashlib.sha1(json.dumps([identity, files]).encode(), usedforsecurity=False)
        commit = Commit(sha.hexdigest(), parent, tree, title, message, author, date)
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit
