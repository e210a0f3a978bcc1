"""The application: answers one request at a time by the routes."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.support.local_hub.errors import HTTPError
from tests.support.local_hub.routing import Call, Route
from tests.support.local_hub.state import HubState

_log = logging.getLogger(__name__)


@dataclass
class HubApp:
    """The application. Handlers run in threads, one at a time, with the lock of the state."""

    hub: HubState
    routes: Sequence[Route]  # the first that matches handles a request

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
