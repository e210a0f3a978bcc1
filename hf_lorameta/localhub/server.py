"""`LocalHub`: run the hub on a loopback port in a thread, and control it from Python."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hf_lorameta.localhub.errors import HTTPError
from hf_lorameta.localhub.routes import ROUTES
from hf_lorameta.localhub.routing import Call, Route
from hf_lorameta.localhub.state import HubState, Repo, Tree, User

HOST = "127.0.0.1"
_log = logging.getLogger(__name__)


class LocalHub:
    """A Hugging Face Hub on ``127.0.0.1``, which real clients use over HTTP.

    Only this machine can connect to it, and everything is in memory. Use it as a context manager.
    Methods that change repos act without HTTP and without access checks.
    """

    def __init__(self) -> None:
        self._hub = HubState()
        self._app: ASGIApp = HubApp(self._hub, ROUTES)

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

    def add_user(self, name: str) -> str:
        """Add a user and return a token."""
        with self._hub.lock:
            return self._hub.add_user(User(name))

    # ---- repos

    def create_repo(self, repo_id: str, repo_type: str = "model") -> None:
        """Create a repo without files."""
        with self._hub.lock:
            self._hub.create(Repo(repo_id, repo_type))

    def upload_folder(self, repo_id: str, folder: Path, repo_type: str = "model") -> None:
        """Commit all files in a folder."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        with self._hub.lock:
            repo = self._hub.repos[repo_type, repo_id]
            changes = {path: self._hub.store(path, data) for path, data in files.items()}
            self._hub.commit(repo, "main", changes, "Upload folder")

    def files(self, repo_id: str) -> dict[str, int]:
        """Return path and size of all files of a model."""
        tree = self._tree(repo_id)
        return {path: tree[path].size for path in sorted(tree)}

    def read(self, repo_id: str, path: str) -> bytes:
        """Return the bytes of a file of a model."""
        return self._hub.blobs[self._tree(repo_id)[path].sha256]

    def _tree(self, repo_id: str) -> Tree:
        with self._hub.lock:
            return self._hub.repos["model", repo_id].resolve("main").tree

    # ---- clients in other processes

    def env(self, token: str | None = None, *, home: Path) -> dict[str, str]:
        """Return this process's environment, with Hugging Face settings that use this hub.

        Args:
            token: token of a user; None for anonymous.
            home: folder for caches and settings (``HF_HOME``).
        """
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE_"))}
        env |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": f"{HOST},localhost",
            "no_proxy": f"{HOST},localhost",
        }
        return env if token is None else env | {"HF_TOKEN": token}


@dataclass
class HubApp:
    """The application. Handlers run in threads, one at a time, with the lock of the state."""

    hub: HubState
    routes: Sequence[Route]  # the first that matches handles a request
    call_type: type[Call] = Call

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
                    return route.handler(self.call_type(self.hub, request, params, body))
        raise HTTPError(404, "Sorry, we can't find the page you are looking for.")
