"""`LocalHub`: run the hub on a loopback port in a thread, and control it from Python."""

import copy
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hf_lorameta.localhub import routes_files, routes_read, routes_write
from hf_lorameta.localhub.history import Commit, Gated, Repo, now
from hf_lorameta.localhub.http_errors import HTTPError, LocalHubError
from hf_lorameta.localhub.routing import Call, Route
from hf_lorameta.localhub.state import CheckCard, HubState, User

HOST = "127.0.0.1"
ROUTES = (*routes_read.ROUTES, *routes_write.ROUTES, *routes_files.ROUTES)
_log = logging.getLogger(__name__)


class LocalHub:
    """A Hugging Face Hub on ``127.0.0.1``, which real clients use over HTTP.

    Only this machine can connect to it, and everything is in memory. Use it as a context manager,
    or call :meth:`start` and :meth:`stop`. Methods that change repos act without HTTP and without
    access checks.

    Args:
        port: 0 for any free port.
        always_lfs: ask every client to upload large files to Git LFS. By default only those started
            with :meth:`env` are asked, and all others send large files inside the commit, because
            a client with hf_xet would use Xet storage, which this hub does not have. Large files
            are stored and served as Git LFS files in any case.
        page_size: maximum number of items per page of a listing.
        routes: more of the Hub's API, tried before the routes of this package.
        check_card: called with each README that is committed and the type of its repo.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        always_lfs: bool = False,
        page_size: int = 1000,
        routes: Sequence[Route] = (),
        check_card: CheckCard = lambda card, repo_type: None,
    ) -> None:
        self._port = port
        self._hub = HubState(always_lfs, page_size, check_card)
        self._app: ASGIApp = HubApp(self._hub, (*routes, *ROUTES))
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    # ---- lifecycle

    def start(self) -> Self:
        """Start serving and return self. Raises LocalHubError if the port is in use."""
        if self._thread is not None:
            raise LocalHubError(f"this LocalHub already serves {self.url}")
        try:
            listener = socket.create_server((HOST, self._port))
        except OSError as error:
            raise LocalHubError(
                f"cannot listen on {HOST}:{self._port}: {os.strerror(error.errno or 0)}",
                hint="use another port; --port 0 selects a free one",
            ) from error
        # asyncio sets it only on sockets that name their protocol; without, an answer waits 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = int(listener.getsockname()[1])
        self._hub.url = f"http://{HOST}:{self._port}"
        config = uvicorn.Config(
            self._app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise LocalHubError(f"the server did not start on port {self._port}")
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Stop serving and wait until all connections are closed. Can be called twice."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, the value for ``HF_ENDPOINT``. Known after the start."""
        if not self._hub.url:
            raise LocalHubError("this LocalHub has no address yet", hint="call hub.start() first")
        return self._hub.url

    # ---- users

    def add_user(
        self,
        name: str,
        token: str | None = None,
        role: str = "write",
        orgs: Sequence[str] = (),
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
        user = User(name, f"{name}@localhub.invalid", tuple(orgs), now(), pro)
        with self._hub.lock:
            return self._hub.add_user(user, token, role)

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
            repo = Repo(repo_id, repo_type, private, gated)
            self._hub.create(repo, repo.namespace or "localhub")
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
            LocalHubError: no such repo or branch, or a README that `check_card` refuses.
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
            author = repo.namespace or "localhub"
            return self._hub.commit(repo, revision, changes, title=message, author=author).sha

    def upload_folder(self, repo_id: str, folder: Path, repo_type: str = "model") -> str:
        """Commit all files in a folder and return the SHA. Raises as :meth:`commit`."""
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path for path in paths}
        return self.commit(repo_id, files, repo_type, message="Upload folder")

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
            raise LocalHubError(
                f"there is no {repo_type} {repo_id}",
                hint=f"hub.create_repo({repo_id!r}, repo_type={repo_type!r})",
            )
        return repo

    # ---- clients in other processes

    def env(self, token: str | None = None, *, home: Path) -> dict[str, str]:
        """Return this process's environment, with Hugging Face settings that use this hub.

        Args:
            token: token of a user; None for anonymous.
            home: folder for caches and settings (``HF_HOME``).
        """
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE_"))}
        return env | self.settings(token) | {"HF_HOME": str(home)}

    def settings(self, token: str | None = None) -> dict[str, str]:
        """Return the environment variables with which every client uses this hub.

        Without ``HF_HUB_DISABLE_XET``, uploads of large files would go to Xet servers.
        """
        settings = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_USER_AGENT_ORIGIN": "localhub-classic",
            "NO_PROXY": f"{HOST},localhost",
            "no_proxy": f"{HOST},localhost",
        }
        return settings if token is None else settings | {"HF_TOKEN": token}


@dataclass
class HubApp:
    """The application. Handlers run in threads, one at a time, with the lock of the state."""

    hub: HubState
    routes: Sequence[Route]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request.

        The body is read to its end before the response: if it were not, uvicorn would close the
        connection, and a client might report a broken pipe instead of the response.
        """
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        response = await run_in_threadpool(self._respond, request, body)
        response.headers["X-Request-Id"] = f"Root={uuid.uuid4()}"
        await response(scope, receive, send)

    def _respond(self, request: Request, body: bytes) -> Response:
        try:
            return self._handle(request, body)
        except HTTPError as error:
            return error.response
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # not the JSON expected
            _log.warning("rejected a malformed request", exc_info=True)
            return HTTPError(400, f"Malformed request: {error!r}").response
        except Exception:
            _log.exception("failed to handle %s %s", request.method, request.url.path)
            raise

    def _handle(self, request: Request, body: bytes) -> Response:
        for route in self.routes:
            params = route.match(request)
            if params is not None:
                with self.hub.lock:
                    return route.handler(Call(self.hub, request, params, body))
        raise HTTPError(404, "Sorry, we can't find the page you are looking for.")
