"""`LocalHub`: run the hub on a loopback port in a thread, and control it from Python."""

import copy
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

import uvicorn
from starlette.types import ASGIApp

from tests.support.local_hub import commits, details, lfs, listing, trusted_publishers
from tests.support.local_hub import settings as repo_settings
from tests.support.local_hub.app import HubApp
from tests.support.local_hub.errors import HTTPError, LocalHubError
from tests.support.local_hub.moves import Moves
from tests.support.local_hub.state import Account, Commit, Gated, HubState, Repo, token_digest

HOST = "127.0.0.1"


class LocalHub:
    """A Hugging Face Hub on ``127.0.0.1``, which real clients use over HTTP.

    Only this machine can connect to it, and everything is in memory. Use it as a context manager.
    Methods that change repos act without HTTP and without access checks.

    Args:
        always_lfs: ask every client to upload large files to Git LFS. By default only those started
            with :meth:`env` are asked, and all others send large files inside the commit, because
            a client with hf_xet would use Xet storage, which this hub does not have. Large files
            are stored and served as Git LFS files in any case.
        page_size: maximum number of items per page of a listing.
    """

    def __init__(self, *, always_lfs: bool = False, page_size: int = 1000) -> None:
        routes = [
            *Moves().routes,
            *commits.ROUTES,
            *repo_settings.ROUTES,
            *details.ROUTES,
            *listing.ROUTES,
            *lfs.ROUTES,
            *trusted_publishers.ROUTES,
        ]
        self._hub = HubState(always_lfs, page_size)
        self._app: ASGIApp = HubApp(self._hub, routes)

    # ---- lifecycle

    def __enter__(self) -> Self:
        """Start serving on any free port."""
        listener = socket.create_server((HOST, 0))
        # asyncio sets it only on sockets that name their protocol; without, an answer waits 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._hub.url = f"http://{HOST}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start on {self.url}")
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving and wait until all connections are closed, for 10 seconds at most."""
        self._server.should_exit = True
        self._thread.join(10)

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, the value for ``HF_ENDPOINT``."""
        return self._hub.url

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

    def trust(self, resource: str, id_token: str) -> None:
        """Let a CI job with this ID token publish to a repo, as ``datasets/user/name``."""
        with self._hub.lock:
            self._hub.publishers[resource] = token_digest(id_token)

    def grant_access(self, repo_id: str, user: str, repo_type: str = "model") -> None:
        """Give a user access to a gated repo."""
        with self._access():
            self._repo(repo_id, repo_type).granted.add(user)

    # ---- repos

    def create_repo(
        self,
        repo_id: str,
        repo_type: str = "model",
        private: bool = False,
        gated: Gated | Literal[True] = False,
    ) -> str:
        """Create a repo, which contains ``.gitattributes`` as on the Hub, and return its SHA."""
        gated = "auto" if gated is True else gated
        with self._access():
            repo = Repo(repo_id, repo_type, private, gated=gated)
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

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo | None:
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

    def _repo(self, repo_id: str, repo_type: str) -> Repo:
        repo = self._hub.repos.get((repo_type, repo_id))
        if repo is None:
            raise LocalHubError(f"there is no {repo_type} {repo_id}")
        return repo

    # ---- clients in other processes

    def env(self, token: str | None = None, *, home: Path) -> dict[str, str]:
        """Return this process's environment, with Hugging Face settings that use this hub.

        The client is without Xet, by which this hub knows that large files go to Git LFS.

        Args:
            token: token of a user; None for anonymous.
            home: folder for caches and settings (``HF_HOME``).
        """
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE_"))}
        env |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_USER_AGENT_ORIGIN": details.LFS_ORIGIN,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": f"{HOST},localhost",
            "no_proxy": f"{HOST},localhost",
        }
        return env if token is None else env | {"HF_TOKEN": token}
