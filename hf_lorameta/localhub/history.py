"""A repo's history as git and the Hub know it: files, commits, branches, tags, pull requests."""

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

REPO_TYPES = ("model", "dataset", "space")
_FULL_SHA = re.compile(r"[0-9a-f]{40}")
_SHORT_SHA = re.compile(r"[0-9a-f]{7,39}")

Gated = Literal["auto", "manual", False]


class _Clock:
    """Tells the time in whole milliseconds, never the same one twice: dates give an order."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def milliseconds(self) -> int:
        with self._lock:
            self._last = max(self._last + 1, time.time_ns() // 1_000_000)
            return self._last


_CLOCK = _Clock()


def now() -> str:
    """Returns the time as the Hub writes it, ``2026-11-24T16:37:00.123Z``; later each time."""
    milliseconds = _CLOCK.milliseconds()
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


@dataclass(frozen=True)
class Entry:
    """A file in a commit.

    Attributes:
        sha256: key of the blob.
        size: number of bytes.
        oid: git id: of the bytes, or of the pointer file if `lfs`.
        lfs: whether git holds only a pointer to it.
    """

    sha256: str
    size: int
    oid: str
    lfs: bool

    @property
    def etag(self) -> str:
        """What a client compares: the sha256 of a large file, else the git id."""
        return self.sha256 if self.lfs else self.oid


Tree = Mapping[str, Entry]
Changes = Mapping[str, Entry | None]  # None: the path is deleted


@dataclass(frozen=True)
class Commit:
    """A commit: a tree, and how it came about."""

    sha: str
    parent: str | None
    tree: Tree
    title: str
    message: str
    author: str
    date: str


@dataclass
class Discussion:
    """A discussion, or a pull request when `is_pr`.

    Attributes:
        base: for a pull request, the commit it started from.
        events: as the API returns them.
        merge_commit: set when merged.
    """

    num: int
    title: str
    author: str
    created: str
    is_pr: bool
    status: str
    base: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    merge_commit: str | None = None

    @property
    def ref(self) -> str:
        """The git reference of a pull request, ``refs/pr/N``."""
        return f"refs/pr/{self.num}"


@dataclass
class Repo:
    """A repo of any type.

    Attributes:
        id: ``namespace/name``.
        type: ``model``, ``dataset`` or ``space``.
        refs: branch names, and ``refs/pr/N``, to commit shas.
        tags: tag names to (commit sha, message).
        objects: sha256 of large files that were uploaded, committed or not.
        granted: users who may read a gated repo.
        sdk: of a space.
    """

    id: str
    type: str
    private: bool = False
    gated: Gated = False
    created: str = field(default_factory=now)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    discussions: list[Discussion] = field(default_factory=list)
    objects: set[str] = field(default_factory=set)
    granted: set[str] = field(default_factory=set)
    sdk: str | None = None

    @property
    def namespace(self) -> str:
        """The user or organization the repo belongs to; empty for a name alone, like ``gpt2``."""
        return self.id.rpartition("/")[0]

    @property
    def branches(self) -> dict[str, str]:
        """Branch names to commit shas, without pull requests."""
        return {name: sha for name, sha in self.refs.items() if not name.startswith("refs/")}

    @property
    def head(self) -> Commit:
        """The newest commit of ``main``."""
        return self.commits[self.refs["main"]]

    def resolve(self, revision: str) -> Commit:
        """Returns the commit of a branch, tag, ``refs/...`` or sha.

        Raises:
            Refusal: 404 RevisionNotFound.
        """
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        if name in self.refs:
            return self.commits[self.refs[name]]
        if name in self.tags:
            return self.commits[self.tags[name][0]]
        if _FULL_SHA.fullmatch(name) and name in self.commits:
            return self.commits[name]
        if _SHORT_SHA.fullmatch(name):
            found = [sha for sha in self.commits if sha.startswith(name)]
            if len(found) == 1:
                return self.commits[found[0]]
        raise http_errors.revision_missing(revision)

    def add_commit(
        self, ref: str, parent: str | None, changes: Changes, title: str, message: str, author: str
    ) -> Commit:
        """Puts a commit on top of `parent`, moves `ref` to it and returns it.

        Where nothing changes, `parent` itself is returned and no commit is made.
        """
        before = self.commits[parent].tree if parent else {}
        tree = apply_changes(before, changes)
        if parent and tree == before:
            self.refs.setdefault(ref, parent)
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
        """Yields `commit` and its ancestors, newest first."""
        at: Commit | None = commit
        while at is not None:
            yield at
            at = self.commits[at.parent] if at.parent else None

    def last_touched(self, commit: Commit) -> dict[str, Commit]:
        """Returns, for each path in `commit`, the commit that gave it its present bytes."""
        touched: dict[str, Commit] = {}
        for at in self.log(commit):
            before = self.commits[at.parent].tree if at.parent else {}
            for path, entry in commit.tree.items():
                if path in touched:
                    continue
                if at.tree.get(path) == entry and before.get(path) != entry:
                    touched[path] = at
        return touched

    def discussion(self, num: int) -> Discussion:
        """Returns a discussion or pull request. Raises Refusal (404) if there is none."""
        if not 1 <= num <= len(self.discussions):
            raise http_errors.Refusal(404, f"Discussion {num} not found")
        return self.discussions[num - 1]

    def conflicts(self, pr: Discussion) -> list[str]:
        """Returns the paths that both a pull request and ``main`` changed, differently."""
        base = self.commits[pr.base].tree if pr.base else {}
        theirs = differences(base, self.commits[self.refs[pr.ref]].tree)
        ours = differences(base, self.head.tree)
        return sorted(p for p in theirs.keys() & ours.keys() if theirs[p] != ours[p])

    def dump(self) -> dict[str, Any]:
        """Returns the repo as plain JSON values; each commit as the changes to its parent."""
        commits = []
        for commit in self.commits.values():
            before = self.commits[commit.parent].tree if commit.parent else {}
            changes = differences(before, commit.tree)
            plain = {path: asdict(e) if e else None for path, e in changes.items()}
            fields = {k: getattr(commit, k) for k in _COMMIT_FIELDS}
            commits.append({**fields, "changes": plain})
        own = {k: getattr(self, k) for k in _REPO_FIELDS}
        sets = {"objects": sorted(self.objects), "granted": sorted(self.granted)}
        talks = [asdict(d) for d in self.discussions]
        return {**own, **sets, "tags": self.tags, "commits": commits, "discussions": talks}

    @classmethod
    def load(cls, data: dict[str, Any]) -> "Repo":
        """Returns the repo that :meth:`dump` wrote."""
        repo = cls(**{k: data[k] for k in _REPO_FIELDS})
        repo.tags = {name: (sha, message) for name, (sha, message) in data["tags"].items()}
        repo.objects, repo.granted = set(data["objects"]), set(data["granted"])
        repo.discussions = [Discussion(**plain) for plain in data["discussions"]]
        for plain in data["commits"]:
            before = repo.commits[plain["parent"]].tree if plain["parent"] else {}
            changes = {p: Entry(**e) if e else None for p, e in plain["changes"].items()}
            fields = {k: plain[k] for k in _COMMIT_FIELDS}
            repo.commits[plain["sha"]] = Commit(tree=apply_changes(before, changes), **fields)
        return repo


_COMMIT_FIELDS = ("sha", "parent", "title", "message", "author", "date")
_REPO_FIELDS = ("id", "type", "private", "gated", "created", "refs", "sdk")


def apply_changes(tree: Tree, changes: Changes) -> dict[str, Entry]:
    """Returns a new tree: `tree` with `changes` made."""
    result = dict(tree)
    for path, entry in changes.items():
        if entry is None:
            result.pop(path, None)
        else:
            result[path] = entry
    return result


def differences(before: Tree, after: Tree) -> dict[str, Entry | None]:
    """Returns the changes that lead from one tree to another."""
    changes: dict[str, Entry | None] = {
        path: entry for path, entry in after.items() if before.get(path) != entry
    }
    changes.update({path: None for path in before if path not in after})
    return changes
