"""State of a hub: accounts, repos with their commits, and contents of files, all in memory."""

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlencode

from tests.support.local_hub import card_rules
from tests.support.local_hub.errors import HTTPError, LocalHubError, revision_not_found
from tests.support.local_hub.lfs_rules import (
    GITATTRIBUTES,
    Changes,
    Entry,
    LfsEntry,
    Tree,
    entry_for,
)

_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_SHA = re.compile(r"[0-9a-f]{40}")
_SHORT_SHA = re.compile(r"[0-9a-f]{7,40}")
_ROLES = ("read", "write")

Gated = Literal["auto", "manual", False]


def now() -> str:
    """Return the time as ``2026-11-24T16:37:00.123456Z``."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


@dataclass(frozen=True)
class Commit:
    """A commit and its tree."""

    sha: str
    parent: str | None
    tree: Tree
    title: str
    date: str


@dataclass(frozen=True)
class Account:
    """A user with a token of some role, who may also write to the repos of organizations.

    One with a `repo` is a trusted publisher's, for this repo alone: ``user/name``, or that after
    ``datasets/`` or ``spaces/``.
    """

    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()
    pro: bool = False  # has a paid plan
    repo: str | None = None
    created: str = field(default_factory=now)

    def owns(self, namespace: str) -> bool:
        """Return whether `namespace` is the user or one of the user's organizations."""
        return namespace in (self.name, *self.orgs)


@dataclass
class Repo:
    """A model, dataset or Space repo with branches, tags and pull requests, which may be gated."""

    id: str  # namespace/name
    type: str  # model, dataset or space
    private: bool = False
    created: str = field(default_factory=now)
    refs: dict[str, str] = field(default_factory=dict)  # branch -> SHA
    commits: dict[str, Commit] = field(default_factory=dict)
    gated: Gated = False
    sdk: str | None = None  # of a Space
    hardware: str | None = None  # that was asked for a Space
    tags: dict[str, str] = field(default_factory=dict)  # name -> SHA
    proposers: dict[str, str] = field(default_factory=dict)  # refs/pr/N -> user who opened it
    granted: set[str] = field(default_factory=set)  # users with access to a gated repo
    objects: set[str] = field(default_factory=set, compare=False)  # SHA-256 of uploads to LFS

    @property
    def namespace(self) -> str:
        """The user or organization that owns the repo."""
        return self.id.rpartition("/")[0]

    @property
    def resource(self) -> str:
        """The path of its page: the id, with the type unless it is a model."""
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    @property
    def sha(self) -> str:
        """The head of ``main``."""
        return self.refs["main"]

    @property
    def branches(self) -> dict[str, str]:
        """Branch names to commit SHAs."""
        return {name: sha for name, sha in self.refs.items() if not name.startswith("refs/")}

    def resolve(self, revision: str) -> Commit:
        """Return the commit of a branch, tag, ``refs/...``, or SHA, which may be short."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        sha = self.refs.get(name) or self.tags.get(name) or name
        if _SHORT_SHA.fullmatch(sha):
            matches = [known for known in self.commits if known.startswith(sha)]
            if len(matches) == 1:
                return self.commits[matches[0]]
        raise revision_not_found(revision)

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

    def open_pull_request(self, base: Commit, author: str) -> str:
        """Open a pull request that starts at a commit, and return its ``refs/pr/N``."""
        ref = f"refs/pr/{len(self.proposers) + 1}"
        self.refs[ref] = base.sha
        self.proposers[ref] = author
        return ref

    def withdraw_pull_request(self, ref: str) -> None:
        """Undo the last `open_pull_request`."""
        del self.refs[ref], self.proposers[ref]

    def log(self, commit: Commit) -> Iterator[Commit]:
        """Yield `commit` and its ancestors, newest first."""
        yield commit
        while commit.parent:
            commit = self.commits[commit.parent]
            yield commit


class HubState:
    """All data of a hub. Every access requires :attr:`lock`.

    Args:
        always_lfs: ask every client to upload large files to Git LFS.
        page_size: maximum number of items per page of a listing.
    """

    def __init__(self, always_lfs: bool, page_size: int) -> None:
        self.always_lfs, self.page_size = always_lfs, page_size
        self.lock = threading.RLock()
        self.tokens: dict[str, Account] = {}  # by SHA-256
        self.publishers: dict[str, str] = {}  # SHA-256 of a trusted job's ID token, by its repo
        self.repos: dict[tuple[str, str], Repo] = {}  # by (type, id)
        self.blobs: dict[str, bytes] = {}  # contents of files by SHA-256
        self.url = ""  # 'http://127.0.0.1:PORT', set when the port is known

    # ---- accounts

    def add_account(self, account: Account, token: str | None) -> str:
        """Add a user, or another token of one with organizations of both, and return the token."""
        if account.role not in _ROLES:
            raise LocalHubError(f"a token's role is one of {_ROLES}, got {account.role!r}")
        if token and token_digest(token) in self.tokens:
            raise LocalHubError(f"the token given for {account.name} is already in use")
        known = [(at, other) for at, other in self.tokens.items() if other.name == account.name]
        orgs = tuple(
            dict.fromkeys((*(org for _, other in known for org in other.orgs), *account.orgs))
        )
        self.tokens |= {at: replace(other, orgs=orgs) for at, other in known}
        token = token or f"hf_{secrets.token_urlsafe(24)}"
        self.tokens[token_digest(token)] = replace(account, orgs=orgs)
        return token

    def caller(self, authorization: str | None) -> Account | None:
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
        return f"{self.url}/{repo.resource}"

    def find(self, repo_type: str, repo_id: str) -> Repo | None:
        """Return the repo of an id, in which case does not matter; None if there is none."""
        exact = self.repos.get((repo_type, repo_id))
        lower = repo_id.lower()
        alike = (r for r in self.repos.values() if r.type == repo_type and r.id.lower() == lower)
        return exact or next(alike, None)

    def create(self, repo: Repo) -> None:
        """Add a repo whose name the Hub accepts; the card of a Space states its SDK."""
        check_repo_id(repo.id)
        if self.find(repo.type, repo.id):
            message = f"You already created this {repo.type} repo: {repo.id}"
            raise HTTPError(409, message, body={"url": self.page_url(repo)})
        contents = {".gitattributes": GITATTRIBUTES}
        if repo.sdk:
            title = repo.id.rpartition("/")[2]
            contents["README.md"] = f"---\ntitle: {title}\nsdk: {repo.sdk}\n---\n".encode()
        files = {path: self.store(path, data) for path, data in contents.items()}
        repo.add_commit("main", files, "initial commit")
        self.repos[repo.type, repo.id] = repo

    def commit(
        self, repo: Repo, revision: str, changes: Changes, title: str, parent: str | None = None
    ) -> Commit:
        """Commit to a branch or pull request, unless the Hub refuses parent, paths or card."""
        if revision not in repo.refs:
            repo.resolve(revision)  # raises RevisionNotFound
            raise HTTPError(400, f"{revision} is not a branch: cannot commit to it")
        if parent is not None and not _SHA.fullmatch(parent):
            raise HTTPError(400, "The parent commit must be a full commit sha")
        for path in changes:
            parts = path.split("/")
            if path.startswith("..\\") or any(part in ("", ".", "..", ".git") for part in parts):
                raise HTTPError(422, f"Invalid path in repo: {path!r}")
        card = self.text(changes, "README.md")
        if card is not None:
            card_rules.validate(card, repo.type)
        if parent not in (None, repo.refs[revision]):
            message = "The branch was updated since you opened this page."
            raise HTTPError(412, f"{message} Please refresh and try again.")
        repo.objects.update(
            entry.sha256 for entry in changes.values() if isinstance(entry, LfsEntry)
        )
        return repo.add_commit(revision, changes, title)

    # ---- files

    def store(self, path: str, data: bytes) -> Entry:
        """Store a file and return the entry for committing it at `path`."""
        entry = entry_for(path, data)
        self.blobs[entry.sha256] = data
        return entry

    def text(self, files: Changes, path: str) -> str | None:
        """Return a text file; None if it is missing."""
        entry = files.get(path)
        return None if entry is None else self.blobs[entry.sha256].decode("utf-8", "replace")

    def has_object(self, repo: Repo, sha256: str) -> bool:
        """Return whether a file was uploaded to the Git LFS storage of a repo."""
        return sha256 in repo.objects and sha256 in self.blobs

    def link(self, path: str, **params: str) -> str:
        """Return a link to storage, which needs no token and is on another host, as a CDN is."""
        return f"{self.url.replace('127.0.0.1', 'localhost')}{path}?{urlencode(params)}"


def check_repo_id(repo_id: str) -> None:
    """Refuse a repo id that the Hub does not accept."""
    parts = repo_id.split("/")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        expected = "must be namespace/name of letters, digits, . _ -"
        raise HTTPError(400, f"Invalid repo name: {repo_id} - {expected}")
    if repo_id.endswith((".git", ".ipynb")):
        raise HTTPError(400, f"Invalid repo name: {repo_id} - cannot end with .git or .ipynb")


def token_digest(token: str) -> str:
    """Return the SHA-256 by which a token is stored."""
    return hashlib.sha256(token.encode()).hexdigest()
