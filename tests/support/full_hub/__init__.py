"""The loopback Hub with more of the Hub's API: what our commands and tests use."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from starlette.types import ASGIApp

from hf_lorameta.localhub import LocalHub
from hf_lorameta.localhub.errors import HTTPError
from hf_lorameta.localhub.routes import ROUTES
from hf_lorameta.localhub.server import HubApp
from hf_lorameta.localhub.state import Commit, token_digest
from tests.support.full_hub import card_rules, commits, details, lfs, listing
from tests.support.full_hub import settings as repo_settings
from tests.support.full_hub.calls import FullCall
from tests.support.full_hub.errors import LocalHubError
from tests.support.full_hub.moves import Moves
from tests.support.full_hub.state import Account, FullRepo, FullState, Gated

__all__ = ["FullHub", "LocalHubError"]


class FullHub(LocalHub):
    """A `LocalHub` that validates cards, with pull requests, gated and moved repos.

    Args:
        always_lfs: ask every client to upload large files to Git LFS. By default only those started
            with :meth:`env` are asked, and all others send large files inside the commit, because
            a client with hf_xet would use Xet storage, which this hub does not have. Large files
            are stored and served as Git LFS files in any case.
        page_size: maximum number of items per page of a listing.
    """

    _hub: FullState

    def __init__(self, *, always_lfs: bool = False, page_size: int = 1000) -> None:
        super().__init__()
        routes = [
            *Moves().routes,
            *commits.ROUTES,
            *card_rules.ROUTES,
            *repo_settings.ROUTES,
            *details.ROUTES,
            *listing.ROUTES,
            *lfs.ROUTES,
            *ROUTES,
        ]
        self._hub = FullState(always_lfs, page_size)
        self._app: ASGIApp = HubApp(self._hub, routes, FullCall)

    # ---- users

    def add_user(
        self,
        name: str,
        token: str | None = None,
        role: str = "write",
        orgs: tuple[str, ...] | list[str] = (),
        *,
        pro: bool = False,
    ) -> str:
        """Add a user, or another token of an existing user, and return the token.

        Args:
            token: None for a random token.
            role: ``write`` or ``read``.
            orgs: organizations whose repos the user may read and write.
            pro: whether the account has a paid plan.

        Raises:
            LocalHubError: unknown role, or the token is in use.
        """
        with self._hub.lock:
            return self._hub.add_account(Account(name, role, tuple(orgs), pro), token)

    def revoke(self, token: str) -> None:
        """Revoke a token: requests with it get 401."""
        with self._hub.lock:
            del self._hub.tokens[token_digest(token)]

    def grant_access(self, repo_id: str, user: str, repo_type: str = "model") -> None:
        """Give a user access to a gated repo."""
        with self._access():
            self._repo(repo_id, repo_type).granted.add(user)

    def env(self, token: str | None = None, *, home: Path) -> dict[str, str]:
        """Return the environment of a client without Xet, by which this hub knows that."""
        without = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_USER_AGENT_ORIGIN": details.LFS_ORIGIN}
        return super().env(token, home=home) | without

    # ---- repos

    def create_repo(  # type: ignore[override]
        self,
        repo_id: str,
        repo_type: str = "model",
        private: bool = False,
        gated: Gated | Literal[True] = False,
    ) -> str:
        """Create a repo, which contains ``.gitattributes`` as on the Hub, and return its SHA."""
        gated = "auto" if gated is True else gated
        with self._access():
            repo = FullRepo(repo_id, repo_type, private, gated=gated)
            self._hub.create(repo)
            return repo.sha

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path | None],
        repo_type: str = "model",
        revision: str = "main",
        message: str = "Upload files",
    ) -> str:
        """Commit files to a branch and return the SHA of its head.

        Args:
            files: path in the repo to bytes, to a file to read, or to None to delete it.

        Raises:
            LocalHubError: no such repo or branch, or a README that the Hub refuses.
        """
        contents = {
            path: source.read_bytes() if isinstance(source, Path) else source
            for path, source in files.items()
        }
        with self._access():
            repo = self._repo(repo_id, repo_type)
            changes = {
                path: None if content is None else self._hub.store(path, content)
                for path, content in contents.items()
            }
            return self._hub.commit(repo, revision, changes, message).sha

    def repo(self, repo_id: str, repo_type: str = "model") -> FullRepo | None:
        """Return a copy of the state of a repo, or None if it does not exist."""
        with self._access():
            return copy.deepcopy(self._hub.repos.get((repo_type, repo_id)))

    def files(
        self, repo_id: str, repo_type: str = "model", revision: str = "main"
    ) -> dict[str, int]:
        """Return path and size of all files. Raises LocalHubError: no such repo or revision."""
        tree = self.commits(repo_id, repo_type, revision)[0].tree
        return {path: tree[path].size for path in sorted(tree)}

    def read(
        self, repo_id: str, path: str, repo_type: str = "model", revision: str = "main"
    ) -> bytes:
        """Return the bytes of a file. Raises LocalHubError if it does not exist."""
        tree = self.commits(repo_id, repo_type, revision)[0].tree
        if path not in tree:
            raise LocalHubError(f"{repo_id} at {revision} has no file {path}")
        return self._hub.blobs[tree[path].sha256]

    def commits(
        self, repo_id: str, repo_type: str = "model", revision: str = "main"
    ) -> list[Commit]:
        """Return the history of a revision, newest first. Raises as :meth:`files`."""
        with self._access():
            repo = self._repo(repo_id, repo_type)
            return list(repo.log(repo.resolve(revision)))

    @contextmanager
    def _access(self) -> Iterator[None]:
        """Hold the lock of the state, and convert HTTPError to LocalHubError."""
        try:
            with self._hub.lock:
                yield
        except HTTPError as error:
            raise LocalHubError(error.message) from error

    def _repo(self, repo_id: str, repo_type: str) -> FullRepo:
        repo = self._hub.repos.get((repo_type, repo_id))
        if repo is None:
            raise LocalHubError(f"there is no {repo_type} {repo_id}")
        return repo
