"""The ASGI application: find the route, run its handler, turn exceptions into responses."""

import inspect
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hf_lorameta.localhub import (
    routes_discussions,
    routes_files,
    routes_lfs,
    routes_read,
    routes_repos,
    routes_write,
)
from hf_lorameta.localhub.http_errors import HTTPError, drain
from hf_lorameta.localhub.routing import Call, Server

ROUTES = [
    *routes_repos.ROUTES,
    *routes_read.ROUTES,
    *routes_write.ROUTES,
    *routes_discussions.ROUTES,
    *routes_lfs.ROUTES,
    *routes_files.ROUTES,
]

_log = logging.getLogger(__name__)


@dataclass
class HubApp:
    """The application."""

    server: Server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except ClientDisconnect:
            return
        except HTTPError as error:
            await drain(request)
            response = error.response
        except (KeyError, TypeError, ValueError) as error:  # JSON of an unexpected structure
            _log.warning("rejected a malformed request", exc_info=True)
            response = HTTPError(400, f"Malformed request: {error!r}").response
        except Exception:
            _log.exception("failed to handle %s %s", request.method, request.url.path)
            raise
        response.headers["X-Request-Id"] = f"Root={uuid.uuid4()}"
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        for route in ROUTES:
            params = route.match(request)
            if params is not None:
                break
        else:
            raise HTTPError(404, "Sorry, we can't find the page you are looking for.")
        call = Call(self.server, request, params)
        if inspect.iscoroutinefunction(route.handler):
            response: Response = await route.handler(call)
        else:
            call.body = await request.body()
            response = await run_in_threadpool(_run_locked, route.handler, call)
        return response


def _run_locked(handler: Callable[[Call], Response], call: Call) -> Response:
    with call.hub.lock:
        return handler(call)
