"""State of a hub: accounts, repos with their commits, and contents of files, all in memory."""

import hashlib
import json
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hf_lorameta.localhub.errors import HTTPError, revision_not_found


def now() -> str:
    """Return the time as ``2026-11-24T16:37:00.123456Z``."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


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

    def resolve(self, revision: str) -> Commit:
        """Return the commit of a branch or a SHA."""
        commit = self.commits.get(self.refs.get(revision, revision))
        if commit is None:
            raise revision_not_found(revision)
        return commit

    def add_commit(self, ref: str, changes: Changes, title: str) -> Commit:
        """Add a commit to a branch and return it; the head if nothing changes."""
        head = self.commits[self.refs[ref]] if ref in self.refs else None
        before = head.tree if head else {}
        merged = {**before, **changes}
        tree = {path: entry for path, entry in merged.items() if entry is not None}
        if head and tree == before:
            return head
        parent, date = head.sha if head else None, now()
        identity = [self.type, self.id, parent, title, date, len(self.commits)]
        files = sorted((path, entry.oid) for path, entry in tree.items())
        sha = hashlib.sha1(json.dumps([identity, files]).encode(), usedforsecurity=False)
        commit = Commit(sha.hexdigest(), parent, tree, title, date)
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit


@dataclass(frozen=True)
class User:
    """A user account."""

    name: str

    def owns(self, namespace: str) -> bool:
        """Return whether the user may read and write the repos of `namespace`."""
        return namespace == self.name


class HubState:
    """All data of a hub. Every access requires :attr:`lock`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tokens: dict[str, User] = {}  # by SHA-256
        self.repos: dict[tuple[str, str], Repo] = {}  # by (type, id)
        self.blobs: dict[str, bytes] = {}  # contents of files by SHA-256
        self.url = ""  # 'http://127.0.0.1:PORT', set when the port is known

    # ---- accounts

    def add_user(self, user: User, token: str | None = None) -> str:
        """Add a user, or another token of one, and return the token; by default a random one."""
        token = token or f"hf_{secrets.token_urlsafe(24)}"
        self.tokens[token_digest(token)] = user
        return token

    def caller(self, authorization: str | None) -> User | None:
        """Return the user that an ``Authorization`` header identifies; None without a header."""
        if not authorization:
            return None
        scheme, _, token = authorization.partition(" ")
        user = self.tokens.get(token_digest(token.strip())) if scheme.lower() == "bearer" else None
        if user is None:
            raise HTTPError(401, "Invalid credentials in Authorization header")
        return user

    # ---- repos

    def page_url(self, repo: Repo) -> str:
        """Return the URL of the web page of a repo."""
        prefix = "" if repo.type == "model" else f"{repo.type}s/"
        return f"{self.url}/{prefix}{repo.id}"

    def create(self, repo: Repo, files: Changes | None = None) -> None:
        """Add a repo with its first commit."""
        if self.find(repo.type, repo.id):
            message = f"You already created this {repo.type} repo: {repo.id}"
            raise HTTPError(409, message, body={"url": self.page_url(repo)})
        repo.add_commit("main", files or {}, "initial commit")
        self.repos[repo.type, repo.id] = repo

    def find(self, repo_type: str, repo_id: str) -> Repo | None:
        """Return the repo of an id; None if there is none."""
        return self.repos.get((repo_type, repo_id))

    def commit(
        self, repo: Repo, revision: str, changes: Changes, title: str, parent: str | None = None
    ) -> Commit:
        """Commit `changes` to a branch, whose head must be `parent` if given."""
        if parent not in (None, repo.refs[revision]):
            message = "The branch was updated since you opened this page."
            raise HTTPError(412, f"{message} Please refresh and try again.")
        return repo.add_commit(revision, changes, title)

    # ---- files

    def store(self, path: str, data: bytes) -> Entry:
        """Store a file and return the entry for committing it at `path`."""
        entry = Entry(hashlib.sha256(data).hexdigest(), len(data), git_oid(data))
        self.blobs[entry.sha256] = data
        return entry

    def text(self, files: Changes, path: str) -> str | None:
        """Return a text file; None if it is missing."""
        entry = files.get(path)
        return None if entry is None else self.blobs[entry.sha256].decode("utf-8", "replace")


def token_digest(token: str) -> str:
    """Return the SHA-256 by which a token is stored."""
    return hashlib.sha256(token.encode()).hexdigest()
