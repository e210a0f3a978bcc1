"""State of a hub: accounts, repos and blobs, with persistence."""

import json
import os
import re
import threading
from pathlib import Path
from urllib.parse import quote

from hf_lorameta.localhub import cards
from hf_lorameta.localhub.accounts import Accounts
from hf_lorameta.localhub.blobs import BlobStore
from hf_lorameta.localhub.history import REPO_TYPES, Changes, Commit, Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.uploads import GITATTRIBUTES, entry_for

_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_SHA = re.compile(r"[0-9a-f]{40}")


class HubState:
    """All data of a hub. Every change requires :attr:`lock`; without `root` nothing is saved."""

    def __init__(self, root: Path | None) -> None:
        self.lock = threading.RLock()
        self.accounts = Accounts()
        self.repos: dict[tuple[str, str], Repo] = {}  # by (type, id)
        self.blobs = BlobStore(root)
        self.url = ""  # 'http://127.0.0.1:PORT', set when the port is known
        self._root = root
        if root is None:
            return
        users = root / "accounts.json"
        if users.is_file():
            self.accounts = Accounts.load(json.loads(users.read_text("utf-8")))
        for file in sorted((root / "repos").glob("*/*.json")):
            repo = Repo.load(json.loads(file.read_text("utf-8")))
            self.repos[repo.type, repo.id] = repo

    def save(self, repo: Repo) -> None:
        """Write a repo to disk, unless the state is in memory only."""
        if self._root:
            _write_json(_repo_file(self._root, repo), repo.dump())

    def save_accounts(self) -> None:
        """Write the accounts to disk, unless the state is in memory only."""
        if self._root:
            _write_json(self._root / "accounts.json", self.accounts.dump())

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
        changes = {p: entry_for(self.blobs, p, self.blobs.add(c)) for p, c in files.items()}
        repo.add_commit("main", changes, "initial commit", "", author)
        self.add(repo)

    def find(self, repo_type: str, repo_id: str) -> Repo | None:
        """Return the repo of an id, in which case does not matter; None if there is none."""
        exact = self.repos.get((repo_type, repo_id))
        lower = repo_id.lower()
        alike = (r for r in self.repos.values() if r.type == repo_type and r.id.lower() == lower)
        return exact or next(alike, None)

    def find_moved(self, repo_type: str, repo_id: str) -> Repo | None:
        """Return the repo that once had an id; None if there is none."""
        repos = [repo for repo in self.repos.values() if repo.type == repo_type]
        return next((repo for repo in repos if repo_id in repo.former_ids), None)

    def add(self, repo: Repo) -> None:
        """Add a repo that has commits."""
        self.repos[repo.type, repo.id] = repo
        self.save(repo)

    def delete(self, repo: Repo) -> None:
        """Remove a repo. Its blobs remain, because other repos may share them."""
        del self.repos[repo.type, repo.id]
        if self._root:
            _repo_file(self._root, repo).unlink(missing_ok=True)

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
        card = self.text(changes, "README.md")
        if card is not None:
            cards.validate(card, repo.type)
        commit = repo.add_commit(revision, changes, title, message, author)
        repo.objects.update(e.sha256 for e in changes.values() if e is not None and e.lfs)
        self.save(repo)
        return commit

    def has_object(self, repo: Repo, sha256: str) -> bool:
        """Return whether a file was uploaded to the Git LFS storage of a repo."""
        return sha256 in repo.objects and sha256 in self.blobs

    def text(self, files: Changes, path: str) -> str | None:
        """Return a small text file; None if it is missing or larger than ``cards.SIZE_LIMIT``."""
        entry = files.get(path)
        if entry is None or entry.size > cards.SIZE_LIMIT:
            return None
        return self.blobs.read(entry.sha256).decode("utf-8", "replace")


def check_repo_id(repo_id: str) -> None:
    """Refuse a repo id that the Hub does not accept."""
    parts = repo_id.split("/")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        expected = "must be namespace/name of letters, digits, . _ -"
        raise HTTPError(400, f"Invalid repo name: {repo_id} - {expected}")
    if repo_id.endswith((".git", ".ipynb")):
        raise HTTPError(400, f"Invalid repo name: {repo_id} - cannot end with .git or .ipynb")


def _repo_file(root: Path, repo: Repo) -> Path:
    return root / "repos" / f"{repo.type}s" / f"{quote(repo.id, safe='')}.json"


def _write_json(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
