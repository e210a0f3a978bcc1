"""`LocalHub`: the hub on a loopback port, in a thread, with what tests and the demo need."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import uvicorn

from hf_lorameta.localhub import accounts, blobs, http_errors, uploads
from hf_lorameta.localhub.app import HubApp
from hf_lorameta.localhub.faults import Fault, FaultMiddleware, RequestRecord
from hf_lorameta.localhub.history import Changes, Commit, Entry, Gated, Repo, now
from hf_lorameta.localhub.routing import Links, Settings
from hf_lorameta.localhub.state import HubState, check_repo_type

HOST = "127.0.0.1"
UPLOADS = ("auto", "inline", "lfs")
_START_SECONDS = 20.0


@dataclass(frozen=True)
class RepoView:
    """A repo as it stands.

    Attributes:
        id: ``namespace/name``.
        type: ``model``, ``dataset`` or ``space``.
        private: hidden from strangers.
        gated: ``auto``, ``manual`` or False.
        sha: head of ``main``.
        branches: names to shas.
        tags: names to shas.
        pull_requests: ``refs/pr/N`` to shas.
    """

    id: str
    type: str
    private: bool
    gated: Gated
    sha: str
    branches: Mapping[str, str]
    tags: Mapping[str, str]
    pull_requests: Mapping[str, str]


class LocalHub:
    """A Hugging Face Hub on ``127.0.0.1``, for the real clients, over real HTTP.

    Nothing outside this machine can reach it. Use it as a context manager, or call :meth:`start`
    and :meth:`stop`.

    Args:
        root: folder in which repos, users and files survive a restart; None keeps all in memory.
        port: 0 for any free port.
        host: only ``127.0.0.1``.
        uploads: how clients are told to send large files. ``lfs``: as the Hub does, through
            git-LFS. ``inline``: inside the commit. ``auto``: git-LFS for clients started with
            :meth:`env`, inline for all others, because a client that has hf_xet would send large
            files to Xet storage, which there is none of here, and never fall back.
            However they are sent, such files are kept and served as large files.
        lfs_part_size: objects larger than this are uploaded in parts of this size.
        page_size: largest number of items of a listing before its next page.

    Raises:
        LocalHubError: a host other than 127.0.0.1, or an unknown value of `uploads`.
    """

    def __init__(
        self,
        root: Path | None = None,
        port: int = 0,
        *,
        host: str = HOST,
        uploads: Literal["auto", "inline", "lfs"] = "auto",
        lfs_part_size: int = 32 << 20,
        page_size: int = 1000,
    ) -> None:
        if host != HOST:
            raise http_errors.LocalHubError(
                f"a LocalHub listens on {HOST} only, got host {host!r}",
                hint="it has no protection against a network: leave host out",
            )
        if uploads not in UPLOADS:
            raise http_errors.LocalHubError(f"uploads is one of {UPLOADS}, got {uploads!r}")
        self._port = port
        self._hub = HubState(Path(root) if root is not None else None)
        self._links = Links(secrets.token_bytes(32))
        settings = Settings(uploads, lfs_part_size, page_size)
        self._tap = FaultMiddleware(HubApp(self._hub, self._links, settings))
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    # ---- running

    def start(self) -> Self:
        """Begins to serve and returns itself.

        Raises:
            LocalHubError: it runs already, or the port is taken.
        """
        if self._thread is not None:
            raise http_errors.LocalHubError(f"this LocalHub already serves {self.url}")
        listener = _listener(self._port)
        self._port = int(listener.getsockname()[1])
        self._links.base = f"http://{HOST}:{self._port}"
        config = uvicorn.Config(
            self._tap,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=_serve, args=(self._server, listener), name="localhub", daemon=True
        )
        self._thread.start()
        self._await_start()
        return self

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self._server is not None and not self._server.started:
            alive = self._thread is not None and self._thread.is_alive()
            if not alive or time.monotonic() > deadline:
                raise http_errors.LocalHubError(f"the server did not start on port {self._port}")
            time.sleep(0.005)

    def stop(self) -> None:
        """Stops serving and waits until all connections are closed. May be called twice."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, the value for ``HF_ENDPOINT``.

        Raises:
            LocalHubError: it was never started, so there is no port as yet.
        """
        if not self._links.base:
            raise http_errors.LocalHubError("this LocalHub has no address yet", hint="hub.start()")
        return self._links.base

    # ---- users

    def add_user(
        self,
        name: str,
        token: str | None = None,
        role: str = "write",
        orgs: Sequence[str] = (),
        email: str | None = None,
    ) -> str:
        """Adds a user, or one more token for a user, and returns the token.

        Args:
            name: the user, and the namespace of the user's repos.
            token: None for a fresh random one.
            role: ``export`` or ``read``.
            orgs: organizations the user belongs to.
            email: shown by whoami.

        Raises:
            LocalHubError: unknown role, or the token is in use.
        """
        user = accounts.User(name, email or f"{name}@localhub.invalid", tuple(orgs), now())
        with self._hub.lock:
            given = self._hub.accounts.add(user, token, role)
            self._hub.save_accounts()
        return given

    def revoke(self, token: str) -> None:
        """Makes a token worthless: requests with it get 401.

        Raises:
            LocalHubError: nobody has this token.
        """
        with self._hub.lock:
            self._hub.accounts.revoke(token)
            self._hub.save_accounts()

    def grant_access(self, repo_id: str, user: str, repo_type: str = "model") -> None:
        """Lets a user read a gated repo. Raises LocalHubError if there is no such repo."""
        with self._hub.lock:
            repo = self._repo(repo_id, repo_type)
            repo.granted.add(user)
            self._hub.save(repo)

    # ---- repos, without HTTP and without asking whose they are

    def create_repo(
        self,
        repo_id: str,
        repo_type: str = "model",
        private: bool = False,
        gated: Gated | Literal[True] = False,
    ) -> str:
        """Makes a repo, which holds ``.gitattributes`` as on the Hub, and returns its sha.

        Raises:
            LocalHubError: it exists, or the name or type is not valid.
        """
        with _as_error():
            check_repo_type(repo_type)
            repo = Repo(
                repo_id, repo_type, private=private, gated="auto" if gated is True else gated
            )
            return self._hub.create(repo, repo.namespace or "localhub").head.sha

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path | None],
        repo_type: str = "model",
        revision: str = "main",
        message: str = "Upload files",
    ) -> str:
        """Commits files to a branch and returns the sha of its head.

        Args:
            files: path in the repo to bytes, or to a file to read, or to None to delete.

        Raises:
            LocalHubError: no such repo or branch, or a README whose metadata is not valid.
        """
        with _as_error():
            repo = self._repo(repo_id, repo_type)
            changes = {path: self._entry(path, source) for path, source in files.items()}
            return self._commit(repo, revision, changes, message)

    def _entry(self, path: str, source: bytes | Path | None) -> Entry | None:
        if source is None:
            return None
        blob = blobs.store_file(self._hub.blobs, source)
        return uploads.entry_for(self._hub.blobs, path, blob)

    def _commit(self, repo: Repo, revision: str, changes: Changes, message: str) -> str:
        author = repo.namespace or "localhub"
        return self._hub.commit(repo, revision, changes, title=message, author=author).sha

    def upload_folder(
        self,
        repo_id: str,
        folder: Path,
        repo_type: str = "model",
        revision: str = "main",
        message: str = "Upload folder",
    ) -> str:
        """Commits all files under a folder at once and returns the sha. Raises as `commit`."""
        found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path for path in found}
        return self.commit(repo_id, files, repo_type, revision, message)

    def repo(self, repo_id: str, repo_type: str = "model") -> RepoView | None:
        """Returns a repo as it stands, or None if there is none."""
        with self._hub.lock:
            repo = self._hub.repos.get((repo_type, repo_id))
            if repo is None:
                return None
            return RepoView(
                id=repo.id,
                type=repo.type,
                private=repo.private,
                gated=repo.gated,
                sha=repo.head.sha,
                branches=repo.branches,
                tags={name: sha for name, (sha, _) in repo.tags.items()},
                pull_requests={r: s for r, s in repo.refs.items() if r.startswith("refs/pr/")},
            )

    def files(
        self, repo_id: str, repo_type: str = "model", revision: str = "main"
    ) -> dict[str, int]:
        """Returns the files at a revision: path to size. Raises LocalHubError if there is none."""
        with _as_error(), self._hub.lock:
            tree = self._repo(repo_id, repo_type).resolve(revision).tree
            return {path: tree[path].size for path in sorted(tree)}

    def read(
        self, repo_id: str, path: str, repo_type: str = "model", revision: str = "main"
    ) -> bytes:
        """Returns a file's bytes. Raises LocalHubError if repo, revision or file is missing."""
        with _as_error(), self._hub.lock:
            commit = self._repo(repo_id, repo_type).resolve(revision)
            if path not in commit.tree:
                raise http_errors.LocalHubError(f"{repo_id} at {revision} holds no {path}")
            return blobs.read(self._hub.blobs, commit.tree[path].sha256)

    def commits(
        self, repo_id: str, repo_type: str = "model", revision: str = "main"
    ) -> list[Commit]:
        """Returns a revision's history, newest first. Raises LocalHubError if there is none."""
        with _as_error(), self._hub.lock:
            repo = self._repo(repo_id, repo_type)
            return list(repo.log(repo.resolve(revision)))

    def _repo(self, repo_id: str, repo_type: str) -> Repo:
        repo = self._hub.repos.get((repo_type, repo_id))
        if repo is None:
            raise http_errors.LocalHubError(
                f"there is no {repo_type} {repo_id}",
                hint=f"hub.create_repo({repo_id!r}, repo_type={repo_type!r})",
            )
        return repo

    # ---- faults and the request log

    def add_fault(self, fault: Fault) -> None:
        """Adds a fault; of several that match a request, the first added strikes."""
        with self._tap.lock:
            self._tap.faults.append(fault)

    def clear_faults(self) -> None:
        """Removes all faults."""
        with self._tap.lock:
            self._tap.faults.clear()

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests so far, oldest first."""
        with self._tap.lock:
            return list(self._tap.records)

    def clear_requests(self) -> None:
        """Empties the log of requests."""
        with self._tap.lock:
            self._tap.records.clear()

    # ---- clients in other processes

    def env(self, token: str | None = None, *, home: Path) -> dict[str, str]:
        """Returns the environment for a child process whose Hub this is to be.

        Args:
            token: the user's token; None for nobody's.
            home: folder for caches and settings (``HF_HOME``).

        Returns:
            this process's environment, without its own Hugging Face settings.
        """
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE_"))}
        env.update(
            HF_ENDPOINT=self.url,
            HF_HOME=str(home),
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            HF_HUB_DISABLE_UPDATE_CHECK="1",
            HF_HUB_DISABLE_XET="1",
            HF_HUB_USER_AGENT_ORIGIN="localhub-classic",
            NO_PROXY=f"{HOST},localhost",
            no_proxy=f"{HOST},localhost",
        )
        if token is not None:
            env["HF_TOKEN"] = token
        return env


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise http_errors.LocalHubError(
            f"cannot listen on {HOST}:{port}: {error.strerror}", hint="--port 0 takes a free one"
        ) from error
    return listener


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    with listener:
        server.run(sockets=[listener])


@contextmanager
def _as_error() -> Iterator[None]:
    """Turns what would be an HTTP refusal into an exception for Python callers."""
    try:
        yield
    except http_errors.Refusal as refusal:
        raise http_errors.LocalHubError(refusal.message) from refusal
