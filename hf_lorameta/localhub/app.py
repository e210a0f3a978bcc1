"""The hub as an ASGI application: finds the route, runs it, turns http_errors into answers."""

import logging
from typing import Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hf_lorameta.localhub import (
    http_errors,
    routes_discussions,
    routes_files,
    routes_lfs,
    routes_read,
    routes_write,
)
from hf_lorameta.localhub.intake import Intake
from hf_lorameta.localhub.routing import (
    LARGEST_BODY,
    Call,
    Handler,
    Links,
    Route,
    Settings,
    StreamHandler,
    segments_of,
)
from hf_lorameta.localhub.state import HubState

ROUTES: list[Route] = [
    *routes_read.ROUTES,
    *routes_write.ROUTES,
    *routes_discussions.ROUTES,
    *routes_lfs.ROUTES,
    *routes_files.ROUTES,
]

_log = logging.getLogger(__name__)


class HubApp:
    """The application.

    Args:
        hub: the state it serves and changes.
        links: maker of signed links.
        settings: how it behaves.
    """

    def __init__(self, hub: HubState, links: Links, settings: Settings) -> None:
        self._hub = hub
        self._links = links
        self._settings = settings

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        intake = Intake(receive)
        request = Request(scope, intake.receive)
        try:
            response = await self._answer(request)
        except http_errors.Refusal as refusal:
            await intake.drain()
            response = refusal.response()
        except ClientDisconnect:
            return
        except (KeyError, TypeError, ValueError) as error:
            # a body that is JSON but not what the route expects
            _log.warning("refused a malformed request", exc_info=True)
            response = http_errors.Refusal(400, f"Malformed request: {error!r}").response()
        except Exception:
            _log.exception("the hub failed on %s %s", request.method, request.url.path)
            raise
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        segments = segments_of(request)
        for route in ROUTES:
            params = route.match(request.method, segments)
            if params is not None:
                return await self._run(route, request, params)
        words = "Sorry, we can't find the page you are looking for."
        raise http_errors.Refusal(404, words)

    async def _run(self, route: Route, request: Request, params: dict[str, str]) -> Response:
        call = Call(self._hub, self._links, self._settings, request, params)
        if route.streams:
            return await cast(StreamHandler, route.handler)(call)
        call.body = await _body(request)
        return await run_in_threadpool(_locked, cast(Handler, route.handler), call)


def _locked(handler: Handler, call: Call) -> Response:
    with call.hub.lock:
        return handler(call)


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise http_errors.Refusal(413, "Payload too large")
        parts.append(chunk)
    return b"".join(parts)
