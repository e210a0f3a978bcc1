"""State of a hub: accounts, repos and contents of files, all in memory."""

import hashlib
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from hf_lorameta.localhub import cards
from hf_lorameta.localhub.history import REPO_TYPES, Changes, Commit, Entry, Repo
from hf_lorameta.localhub.http_errors import HTTPError, LocalHubError
from hf_lorameta.localhub.uploads import GITATTRIBUTES, entry_for

_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_SHA = re.compile(r"[0-9a-f]{40}")
ROLES = ("read", "write")
CheckCard = Callable[[str, str], object]


@dataclass
class User:
    """A user account; it may also write to the repos of its organizations."""

    name: str
    email: str
    orgs: tuple[str, ...]
    created: str
    pro: bool = False  # has a paid plan


@dataclass(frozen=True)
class Caller:
    """The sender of a request: a user, and the role of the token, ``read`` or ``write``."""

    user: User
    role: str

    def owns(self, namespace: str) -> bool:
        """Return whether `namespace` is the user or one of the user's organizations."""
        return namespace == self.user.name or namespace in self.user.orgs


class HubState:
    """All data of a hub. Every access requires :attr:`lock`.

    Args: those of :class:`~hf_lorameta.localhub.LocalHub` of the same names.
    """

    def __init__(self, always_lfs: bool, page_size: int, check_card: CheckCard) -> None:
        self.always_lfs = always_lfs
        self.page_size = page_size
        self._check_card = check_card
        self.lock = threading.RLock()
        self.users: dict[str, User] = {}
        self.tokens: dict[str, tuple[str, str]] = {}  # SHA-256 -> (name, role)
        self.repos: dict[tuple[str, str], Repo] = {}  # by (type, id)
        self.blobs: dict[str, bytes] = {}  # contents of files by SHA-256
        self.url = ""  # 'http://127.0.0.1:PORT', set when the port is known

    # ---- accounts

    def add_user(self, user: User, token: str | None, role: str) -> str:
        """Add a user, or another token of an existing user, and return the token."""
        if role not in ROLES:
            raise LocalHubError(f"a token's role is one of {ROLES}, got {role!r}")
        token = token or f"hf_{secrets.token_urlsafe(24)}"
        if token_digest(token) in self.tokens:
            raise LocalHubError(f"the token given for {user.name} is already in use")
        existing = self.users.get(user.name)
        if existing is not None:
            user.orgs = tuple(dict.fromkeys((*existing.orgs, *user.orgs)))
        self.users[user.name] = user
        self.tokens[token_digest(token)] = (user.name, role)
        return token

    def caller(self, authorization: str | None) -> Caller | None:
        """Return the caller that an ``Authorization`` header identifies; None without a header."""
        if not authorization:
            return None
        scheme, _, token = authorization.partition(" ")
        match = self.tokens.get(token_digest(token.strip())) if scheme.lower() == "bearer" else None
        if match is None:
            raise HTTPError(401, "Invalid credentials in Authorization header")
        name, role = match
        return Caller(self.users[name], role)

    # ---- repos

    def page_url(self, repo: Repo) -> str:
        """Return the URL of the web page of a repo."""
        prefix = "" if repo.type == "model" else f"{repo.type}s/"
        return f"{self.url}/{prefix}{repo.id}"

    def create(self, repo: Repo, author: str) -> None:
        """Add a repo with its first commit; the card of a Space states its SDK, as on the Hub."""
        if repo.type not in REPO_TYPES:
            message = f"Invalid repo type: {repo.type}, expected one of {REPO_TYPES}"
            raise HTTPError(400, message)
        check_repo_id(repo.id)
        if self.find(repo.type, repo.id):
            message = f"You already created this {repo.type} repo: {repo.id}"
            raise HTTPError(409, message, body={"url": self.page_url(repo)})
        files = {".gitattributes": GITATTRIBUTES}
        if repo.sdk:
            name = repo.id.rpartition("/")[2]
            files["README.md"] = f"---\ntitle: {name}\nsdk: {repo.sdk}\n---\n".encode()
        changes = {path: self.store(path, content) for path, content in files.items()}
        repo.add_commit("main", changes, "initial commit", "", author)
        self.repos[repo.type, repo.id] = repo

    def find(self, repo_type: str, repo_id: str) -> Repo | None:
        """Return the repo of an id, in which case does not matter; None if there is none."""
        exact = self.repos.get((repo_type, repo_id))
        lower = repo_id.lower()
        alike = (r for r in self.repos.values() if r.type == repo_type and r.id.lower() == lower)
        return exact or next(alike, None)

    def commit(
        self,
        repo: Repo,
        revision: str,
        changes: Changes,
        *,
        title: str,
        message: str = "",
        author: str,
        parent: str | None = None,
    ) -> Commit:
        """Commit `changes` to a branch or pull request, whose head must be `parent` if given."""
        if revision not in repo.refs:
            repo.resolve(revision)  # raises RevisionNotFound
            raise HTTPError(400, f"{revision} is not a branch: cannot commit to it")
        if parent is not None and not _SHA.fullmatch(parent):
            raise HTTPError(400, "The parent commit must be a full commit sha")
        if parent is not None and parent != repo.refs[revision]:
            message = "The branch was updated since you opened this page."
            raise HTTPError(412, f"{message} Please refresh and try again.")
        self.check_card(repo, changes)
        commit = repo.add_commit(revision, changes, title, message, author)
        repo.objects.update(e.sha256 for e in changes.values() if e is not None and e.lfs)
        return commit

    def check_card(self, repo: Repo, changes: Changes) -> None:
        """Refuse a README that does not pass the check."""
        card = self.text(changes, "README.md")
        if card is not None:
            self._check_card(card, repo.type)

    # ---- files

    def store(self, path: str, data: bytes) -> Entry:
        """Store a file and return the entry for committing it at `path`."""
        entry = entry_for(path, data)
        self.blobs[entry.sha256] = data
        return entry

    def has_object(self, repo: Repo, sha256: str) -> bool:
        """Return whether a file was uploaded to the Git LFS storage of a repo."""
        return sha256 in repo.objects and sha256 in self.blobs

    def text(self, files: Changes, path: str) -> str | None:
        """Return a small text file; None if it is missing or larger than ``cards.SIZE_LIMIT``."""
        entry = files.get(path)
        if entry is None or entry.size > cards.SIZE_LIMIT:
            return None
        return self.blobs[entry.sha256].decode("utf-8", "replace")

    # ---- storage

    def link(self, path: str, **params: str) -> str:
        """Return a link to storage, which needs no token, as on a CDN."""
        return f"{self.url}{path}?{urlencode(params)}"


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
