"""State of a hub: accounts, repos and contents of files, all in memory."""

import hashlib
import secrets
import threading
from dataclasses import dataclass

from hf_lorameta.localhub.history import Changes, Commit, Entry, Repo, git_oid
from hf_lorameta.localhub.http_errors import HTTPError


@dataclass(frozen=True)
class User:
    """A user account."""

    name: str
    created: str

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

    def create(self, repo: Repo, author: str, files: Changes | None = None) -> None:
        """Add a repo with its first commit."""
        if self.find(repo.type, repo.id):
            message = f"You already created this {repo.type} repo: {repo.id}"
            raise HTTPError(409, message, body={"url": self.page_url(repo)})
        repo.add_commit("main", files or {}, "initial commit", "", author)
        self.repos[repo.type, repo.id] = repo

    def find(self, repo_type: str, repo_id: str) -> Repo | None:
        """Return the repo of an id; None if there is none."""
        return self.repos.get((repo_type, repo_id))

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
        """Commit `changes` to a branch, whose head must be `parent` if given."""
        if parent not in (None, repo.refs[revision]):
            message = "The branch was updated since you opened this page."
            raise HTTPError(412, f"{message} Please refresh and try again.")
        return repo.add_commit(revision, changes, title, message, author)

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
