"""Data model of a repo: files, commits, branches, tags, discussions and pull requests."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.blobs import Blob

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

    sha256: str  # key of the blob
    size: int
    oid: str  # git id of the file, or of its pointer file if `lfs`
    lfs: bool

    @property
    def blob(self) -> Blob:
        """Key and size."""
        return Blob(self.sha256, self.size)


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
class Discussion:
    """A discussion, or a pull request if `is_pr`."""

    num: int
    title: str
    author: str
    created: str
    is_pr: bool
    status: str
    base: str | None = None  # the commit that a pull request started from
    events: list[dict[str, Any]] = field(default_factory=list)  # in the format of the API
    merge_commit: str | None = None

    @property
    def ref(self) -> str:
        """The git reference of a pull request, ``refs/pr/N``."""
        return f"refs/pr/{self.num}"

    def add_event(self, author: str, kind: str, **data: object) -> dict[str, Any]:
        """Append an event and return it in the format of the API."""
        event = {
            "id": f"{self.num:012x}{len(self.events):012x}",
            "type": kind,
            "author": {"name": author, "type": "user"},
            "createdAt": now(),
            "data": data,
        }
        self.events.append(event)
        return event

    def add_comment(self, author: str, text: str) -> dict[str, Any]:
        """Append a comment and return its event."""
        latest = {"raw": text, "updatedAt": now()}
        return self.add_event(author, "comment", edited=False, hidden=False, latest=latest)

    def set_status(self, author: str, status: str) -> dict[str, Any]:
        """Change the status and return the event."""
        self.status = status
        return self.add_event(author, "status-change", status=status)


@dataclass
class Repo:
    """A model, dataset or Space repo."""

    id: str  # namespace/name
    type: str  # one of REPO_TYPES
    private: bool = False
    gated: Gated = False
    created: str = field(default_factory=now)
    refs: dict[str, str] = field(default_factory=dict)  # branch or refs/pr/N -> SHA
    tags: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # name -> SHA, message
    commits: dict[str, Commit] = field(default_factory=dict)
    discussions: list[Discussion] = field(default_factory=list)
    objects: set[str] = field(default_factory=set, compare=False)  # SHA-256 of uploads to LFS
    granted: set[str] = field(default_factory=set)  # users with access to a gated repo
    sdk: str | None = None  # of a Space
    former_ids: list[str] = field(default_factory=list)  # before it was moved

    @property
    def namespace(self) -> str:
        """The user or organization that owns the repo; empty for an id like ``gpt2``."""
        return self.id.rpartition("/")[0]

    @property
    def branches(self) -> dict[str, str]:
        """Branch names to commit SHAs."""
        return {name: sha for name, sha in self.refs.items() if not name.startswith("refs/")}

    @property
    def pull_requests(self) -> dict[str, str]:
        """``refs/pr/N`` to commit SHAs."""
        return {name: sha for name, sha in self.refs.items() if name.startswith("refs/pr/")}

    @property
    def sha(self) -> str:
        """The head of ``main``."""
        return self.refs["main"]

    def resolve(self, revision: str) -> Commit:
        """Return the commit of a branch, tag, ``refs/...`` or SHA."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        if name in self.refs:
            return self.commits[self.refs[name]]
        if name in self.tags:
            return self.commits[self.tags[name][0]]
        matches = [sha for sha in self.commits if sha.startswith(name)]
        if _SHA.fullmatch(name) and len(matches) == 1:
            return self.commits[matches[0]]
        raise http_errors.revision_not_found(revision)

    def tree_at(self, sha: str | None) -> Tree:
        """Return the tree of a commit; empty for None, the parent of the first commit."""
        return self.commits[sha].tree if sha else {}

    def add_commit(
        self, ref: str, changes: Changes, title: str, message: str, author: str
    ) -> Commit:
        """Add a commit to a branch or pull request and return it; the head if nothing changes."""
        parent = self.refs.get(ref)
        before = self.tree_at(parent)
        tree = apply_changes(before, changes)
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

    def log(self, commit: Commit) -> Iterator[Commit]:
        """Yield `commit` and its ancestors, newest first."""
        yield commit
        while commit.parent:
            commit = self.commits[commit.parent]
            yield commit

    def last_commits(self, commit: Commit) -> dict[str, Commit]:
        """Return the last commit that changed each path of `commit`."""
        last: dict[str, Commit] = {}
        for ancestor in self.log(commit):
            for path in differences(self.tree_at(ancestor.parent), ancestor.tree):
                if path in commit.tree:
                    last.setdefault(path, ancestor)
        return last

    def open_discussion(
        self, title: str, text: str, author: str, *, is_pr: bool, status: str = "open"
    ) -> Discussion:
        """Open a discussion, or a pull request on ``main`` without commits, and return it."""
        num, base = len(self.discussions) + 1, self.sha if is_pr else None
        discussion = Discussion(num, title, author, now(), is_pr, status, base)
        if base:
            self.refs[discussion.ref] = base
        discussion.add_comment(author, text)
        self.discussions.append(discussion)
        return discussion

    def conflicts(self, pr: Discussion) -> list[str]:
        """Return the paths that a pull request and ``main`` changed differently."""
        base = self.tree_at(pr.base)
        theirs = differences(base, self.tree_at(self.refs[pr.ref]))
        ours = differences(base, self.tree_at(self.sha))
        return sorted(p for p in theirs.keys() & ours.keys() if theirs[p] != ours[p])

    def dump(self) -> dict[str, Any]:
        """Return the repo as JSON values. Each commit contains the changes to its parent."""
        commits = []
        for commit in self.commits.values():
            changes = differences(self.tree_at(commit.parent), commit.tree)
            plain = {path: asdict(e) if e else None for path, e in changes.items()}
            commits.append({**{k: getattr(commit, k) for k in _COMMIT_FIELDS}, "changes": plain})
        return {
            **{k: getattr(self, k) for k in _REPO_FIELDS},
            "objects": sorted(self.objects),
            "granted": sorted(self.granted),
            "tags": self.tags,
            "commits": commits,
            "discussions": [asdict(d) for d in self.discussions],
        }

    @classmethod
    def load(cls, data: dict[str, Any]) -> "Repo":
        """Return the repo that :meth:`dump` returned."""
        repo = cls(**{k: data[k] for k in _REPO_FIELDS})
        repo.tags = {name: (sha, message) for name, (sha, message) in data["tags"].items()}
        repo.objects, repo.granted = set(data["objects"]), set(data["granted"])
        repo.discussions = [Discussion(**fields) for fields in data["discussions"]]
        for plain in data["commits"]:
            changes = {p: Entry(**e) if e else None for p, e in plain["changes"].items()}
            tree = apply_changes(repo.tree_at(plain["parent"]), changes)
            fields = {k: plain[k] for k in _COMMIT_FIELDS}
            repo.commits[plain["sha"]] = Commit(tree=tree, **fields)
        return repo


_COMMIT_FIELDS = ("sha", "parent", "title", "message", "author", "date")
_REPO_FIELDS = ("id", "type", "private", "gated", "created", "refs", "sdk", "former_ids")


def apply_changes(tree: Tree, changes: Changes) -> dict[str, Entry]:
    """Return `tree` with `changes` applied."""
    merged = {**tree, **changes}
    return {path: entry for path, entry in merged.items() if entry is not None}


def differences(before: Tree, after: Tree) -> dict[str, Entry | None]:
    """Return the changes that turn tree `before` into `after`."""
    changed: dict[str, Entry | None] = {p: e for p, e in after.items() if before.get(p) != e}
    return changed | {path: None for path in before if path not in after}
