"""State of a hub: accounts, repos and contents of files, all in memory."""

import hashlib
import hmac
import re
import secrets
import threading
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request

from hf_lorameta.localhub import cards
from hf_lorameta.localhub.accounts import Accounts
from hf_lorameta.localhub.history import REPO_TYPES, Changes, Commit, Entry, Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.uploads import GITATTRIBUTES, entry_for

_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_SHA = re.compile(r"[0-9a-f]{40}")


class HubState:
    """All data of a hub. Every access requires :attr:`lock`.

    Args:
        always_lfs: see :class:`~hf_lorameta.localhub.LocalHub`.
        page_size: the same.
    """

    def __init__(self, always_lfs: bool = False, page_size: int = 1000) -> None:
        self.always_lfs = always_lfs
        self.page_size = page_size
        self.lock = threading.RLock()
        self.accounts = Accounts()
        self.repos: dict[tuple[str, str], Repo] = {}  # by (type, id)
        self.blobs: dict[str, bytes] = {}  # contents of files by SHA-256
        self.url = ""  # 'http://127.0.0.1:PORT', set when the port is known
        self._secret = secrets.token_bytes(32)

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
        """Refuse a README whose metadata is not valid."""
        card = self.text(changes, "README.md")
        if card is not None:
            cards.validate(card, repo.type)

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

    # ---- signed links

    def link(self, method: str, path: str, **params: str) -> str:
        """Return a signed link for `method` on `path`, which needs no token, as on a CDN."""
        query = urlencode(sorted(params.items()))
        return f"{self.url}{path}?{query}&Signature={self._signature(method, path, query)}"

    def check_link(self, request: Request) -> dict[str, str]:
        """Return the parameters of a link, whose signature must be valid."""
        params = dict(parse_qsl(request.url.query, keep_blank_values=True))
        signature = params.pop("Signature", "")
        query = urlencode(sorted(params.items()))
        method = "GET" if request.method == "HEAD" else request.method
        expected = self._signature(method, request.url.path, query)
        if not hmac.compare_digest(signature, expected):
            raise HTTPError(403, "Access denied: the link's signature is not valid")
        return params

    def _signature(self, method: str, path: str, query: str) -> str:
        text = f"{method} {path}?{query}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]


def check_repo_id(repo_id: str) -> None:
    """Refuse a repo id that the Hub does not accept."""
    parts = repo_id.split("/")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        expected = "must be namespace/name of letters, digits, . _ -"
        raise HTTPError(400, f"Invalid repo name: {repo_id} - {expected}")
    if repo_id.endswith((".git", ".ipynb")):
        raise HTTPError(400, f"Invalid repo name: {repo_id} - cannot end with .git or .ipynb")
