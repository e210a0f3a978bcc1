"""Data model of a repo: files, commits, branches, tags and pull requests."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from hf_lorameta.localhub import http_errors

REPO_TYPES = ("model", "dataset", "space")
_SHA = re.compile(r"[0-9a-f]{7,40}")  # complete or short

Gated = Literal["auto", "manual", False]


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
    oid: str  # git id of the file, or of its pointer file if `lfs`
    lfs: bool


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
    type: str  # one of REPO_TYPES
    private: bool = False
    gated: Gated = False
    sdk: str | None = None  # of a Space
    hardware: str | None = None  # that was asked for a Space
    created: str = field(default_factory=now)
    refs: dict[str, str] = field(default_factory=dict)  # branch or refs/pr/N -> SHA
    tags: dict[str, str] = field(default_factory=dict)  # name -> SHA
    commits: dict[str, Commit] = field(default_factory=dict)
    discussions: int = 0  # how many, and pull requests, which are numbered together
    proposers: dict[str, str] = field(default_factory=dict)  # refs/pr/N -> user who opened it
    objects: set[str] = field(default_factory=set, compare=False)  # SHA-256 of uploads to LFS
    granted: set[str] = field(default_factory=set)  # users with access to a gated repo

    @property
    def namespace(self) -> str:
        """The user or organization that owns the repo; empty for an id like ``gpt2``."""
        return self.id.rpartition("/")[0]

    @property
    def branches(self) -> dict[str, str]:
        """Branch names to commit SHAs."""
        return {name: sha for name, sha in self.refs.items() if not name.startswith("refs/")}

    @property
    def sha(self) -> str:
        """The head of ``main``."""
        return self.refs["main"]

    def resolve(self, revision: str) -> Commit:
        """Return the commit of a branch, tag, ``refs/...`` or SHA."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        sha = self.refs.get(name) or self.tags.get(name)
        if sha is None and _SHA.fullmatch(name):
            matches = [known for known in self.commits if known.startswith(name)]
            sha = matches[0] if len(matches) == 1 else None
        if sha is None:
            raise http_errors.revision_not_found(revision)
        return self.commits[sha]

    def tree_at(self, sha: str | None) -> Tree:
        """Return the tree of a commit; empty for None, the parent of the first commit."""
        return self.commits[sha].tree if sha else {}

    def add_commit(
        self, ref: str, changes: Changes, title: str, message: str, author: str
    ) -> Commit:
        """Add a commit to a branch or pull request and return it; the head if nothing changes."""
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

    def open_pull_request(self, base: Commit, author: str) -> str:
        """Open a pull request that starts at a commit, and return its ``refs/pr/N``."""
        self.discussions += 1
        ref = f"refs/pr/{self.discussions}"
        self.refs[ref] = base.sha
        self.proposers[ref] = author
        return ref

    def log(self, commit: Commit) -> Iterator[Commit]:
        """Yield `commit` and its ancestors, newest first."""
        yield commit
        while commit.parent:
            commit = self.commits[commit.parent]
            yield commit
