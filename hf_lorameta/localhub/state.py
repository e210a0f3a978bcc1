"""Everything a hub knows: accounts, repos, blobs; who may do what; and its copy on disk."""

import json
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from hf_lorameta.localhub import accounts, blobs, cards, http_errors, uploads
from hf_lorameta.localhub.history import REPO_TYPES, Changes, Commit, Discussion, Repo, now

_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_SHA = re.compile(r"[0-9a-f]{40}")

Key = tuple[str, str]  # repo type, repo id


class HubState:
    """The hub's memory. All changes are made under :attr:`lock`.

    Args:
        root: folder the state survives in; None for memory only.
    """

    def __init__(self, root: Path | None) -> None:
        self.lock = threading.RLock()
        self.root = root
        self.accounts = accounts.Accounts()
        self.repos: dict[Key, Repo] = {}
        self.blobs: blobs.BlobStore = blobs.DiskBlobs(root) if root else blobs.MemoryBlobs()
        if root:
            self._load(root)

    # ---- on disk

    def _load(self, root: Path) -> None:
        users = root / "accounts.json"
        if users.is_file():
            self.accounts = accounts.Accounts.load(json.loads(users.read_text("utf-8")))
        for file in sorted((root / "repos").glob("*/*.json")):
            repo = Repo.load(json.loads(file.read_text("utf-8")))
            self.repos[repo.type, repo.id] = repo

    def _file(self, root: Path, key: Key) -> Path:
        return root / "repos" / f"{key[0]}s" / f"{quote(key[1], safe='')}.json"

    def save(self, repo: Repo) -> None:
        """Writes a repo's state to disk, where there is one."""
        if self.root:
            _write_atomically(self._file(self.root, (repo.type, repo.id)), repo.dump())

    def save_accounts(self) -> None:
        """Writes users and token digests to disk, where there is one."""
        if self.root:
            _write_atomically(self.root / "accounts.json", self.accounts.dump())

    # ---- who may do what

    def may_see(self, repo: Repo, caller: accounts.Caller | None) -> bool:
        """Says whether the repo exists for this caller."""
        return not repo.private or (caller is not None and caller.owns(repo.namespace))

    def may_download(self, repo: Repo, caller: accounts.Caller | None) -> bool:
        """Says whether the caller may read the files: gated repos ask for granted access."""
        if not repo.gated:
            return True
        if caller is None:
            return False
        return caller.owns(repo.namespace) or caller.user.name in repo.granted

    def visible(self, kind: str, repo_id: str, caller: accounts.Caller | None) -> Repo:
        """Returns a repo. Raises Refusal (RepoNotFound) if it does not exist for the caller."""
        repo = self.repos.get((kind, repo_id))
        if repo is None or not self.may_see(repo, caller):
            raise http_errors.repo_missing(anonymous=caller is None)
        return repo

    def readable(self, kind: str, repo_id: str, caller: accounts.Caller | None) -> Repo:
        """Returns a repo whose files the caller may read. Raises Refusal otherwise."""
        repo = self.visible(kind, repo_id, caller)
        if not self.may_download(repo, caller):
            raise http_errors.gated(repo.id, repo.type, anonymous=caller is None)
        return repo

    def writable(
        self, kind: str, repo_id: str, caller: accounts.Caller | None, by_pr: bool = False
    ) -> Repo:
        """Returns a repo the caller may write to, directly or (`by_pr`) by a pull request.

        Raises:
            Refusal: 401, 403 or RepoNotFound.
        """
        repo = self.visible(kind, repo_id, caller)
        writer = require_writer(caller)
        if not by_pr and not writer.owns(repo.namespace):
            raise http_errors.foreign_repo()
        return repo

    # ---- changes

    def create(
        self, repo: Repo, author: str, extra: Mapping[str, blobs.Blob] | None = None
    ) -> Repo:
        """Adds a repo with its first commit and returns it.

        Raises:
            Refusal: 400 for a name the Hub does not take, 409 if the repo exists.
        """
        check_repo_id(repo.id)
        with self.lock:
            if (repo.type, repo.id) in self.repos:
                words = f"You already created this {repo.type} repo: {repo.id}"
                raise http_errors.Refusal(409, words, body={"url": f"/{page_path(repo)}"})
            first = {".gitattributes": blobs.store_file(self.blobs, uploads.gitattributes())}
            files = {**first, **(extra or {})}
            changes = {p: uploads.entry_for(self.blobs, p, b) for p, b in files.items()}
            repo.add_commit("main", None, changes, "initial commit", "", author)
            self.repos[repo.type, repo.id] = repo
            self.save(repo)
        return repo

    def delete(self, repo: Repo) -> None:
        """Removes a repo; its blobs stay, other repos may share them."""
        with self.lock:
            del self.repos[repo.type, repo.id]
            if self.root:
                self._file(self.root, (repo.type, repo.id)).unlink(missing_ok=True)

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
        """Commits `changes` to a branch or pull request and returns the commit.

        Raises:
            Refusal: 412 if `parent` is not the head; 400 for invalid card metadata; 404
                RevisionNotFound.
        """
        with self.lock:
            if revision not in repo.refs:
                repo.resolve(revision)  # RevisionNotFound, if that is what it is
                raise http_errors.Refusal(400, f"{revision} is not a branch: cannot commit to it")
            head = repo.refs[revision]
            if parent is not None and not _SHA.fullmatch(parent):
                raise http_errors.Refusal(400, "The parent commit must be a full commit sha")
            if parent is not None and parent != head:
                raise http_errors.moved_on()
            self._check_card(repo, changes)
            made = repo.add_commit(revision, head, changes, title, message, author)
            repo.objects.update(e.sha256 for e in changes.values() if e is not None and e.lfs)
            self.save(repo)
        return made

    def open_pr(self, repo: Repo, title: str, text: str, author: str, status: str) -> Discussion:
        """Opens a pull request on ``main``, without commits as yet, and returns it."""
        with self.lock:
            num = len(repo.discussions) + 1
            pr = Discussion(num, title, author, now(), True, status, base=repo.refs["main"])
            repo.refs[pr.ref] = repo.refs["main"]
            repo.discussions.append(pr)
            pr.events.append(comment_event(pr, author, text))
            self.save(repo)
        return pr

    def _check_card(self, repo: Repo, changes: Changes) -> None:
        entry = changes.get("README.md")
        if entry is None or entry.size > cards.LONGEST:
            return
        text = blobs.read(self.blobs, entry.sha256).decode("utf-8", "replace")
        errors, warnings = cards.check(text, repo.type)
        if errors:
            body = {"errors": cards.as_items(errors), "warnings": cards.as_items(warnings)}
            raise http_errors.Refusal(400, f"Invalid metadata in README.md. {errors[0]}", body=body)

    # ---- reading

    def text(self, commit: Commit, path: str) -> str | None:
        """Returns a small text file of a commit, or None if there is none."""
        entry = commit.tree.get(path)
        if entry is None or entry.size > cards.LONGEST:
            return None
        return blobs.read(self.blobs, entry.sha256).decode("utf-8", "replace")


def comment_event(talk: Discussion, author: str, text: str) -> dict[str, object]:
    """Returns a comment as the API shows it among a discussion's events."""
    return event(
        talk,
        author,
        "comment",
        {"edited": False, "hidden": False, "latest": {"raw": text, "updatedAt": now()}},
    )


def event(talk: Discussion, author: str, kind: str, data: dict[str, object]) -> dict[str, object]:
    """Returns an event of a discussion as the API shows it."""
    number = f"{talk.num:012x}{len(talk.events):012x}"
    who = {"name": author, "type": "user"}
    return {"id": number, "type": kind, "author": who, "createdAt": now(), "data": data}


def require_user(caller: accounts.Caller | None) -> accounts.Caller:
    """Returns the caller. Raises Refusal (401) for anonymous requests."""
    if caller is None:
        raise http_errors.login_needed()
    return caller


def require_writer(caller: accounts.Caller | None) -> accounts.Caller:
    """Returns the caller. Raises Refusal: 401 for nobody, 403 for a read-only token."""
    known = require_user(caller)
    if known.role != "write":
        raise http_errors.read_only_token()
    return known


def check_repo_id(repo_id: str) -> None:
    """Raises Refusal (400) unless the Hub would take this repo id."""
    parts = repo_id.split("/")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        words = f"Invalid repo name: {repo_id} - must be namespace/name of letters, digits, . _ -"
        raise http_errors.Refusal(400, words)
    if repo_id.endswith((".git", ".ipynb")):
        raise http_errors.Refusal(400, f"Invalid repo name: {repo_id} - cannot end with .git")


def check_repo_type(kind: str) -> str:
    """Returns `kind`. Raises Refusal (400) if it is not a repo type."""
    if kind not in REPO_TYPES:
        raise http_errors.Refusal(400, f"Invalid repo type: {kind}, expected one of {REPO_TYPES}")
    return kind


def page_path(repo: Repo) -> str:
    """Returns the path of a repo's page: models stand at the root, others under their type."""
    return repo.id if repo.type == "model" else f"{repo.type}s/{repo.id}"


def _write_atomically(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
