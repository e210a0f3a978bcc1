"""ASGI middleware for a page on one's own machine: it answers no other host and no other site."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from limits.callers import from_another_site, opens_page
from settings import LOOPBACK


def only_own_page(app: ASGIApp) -> ASGIApp:
    """Return an app that refuses requests of other hosts and origins.

    A page of another site can send requests here, such as uploads and trainings, and can read the
    answers if its host name points to this machine (DNS rebinding).
    """

    async def refuse_others(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope) if scope["type"] == "http" else ""
        answer = JSONResponse({"detail": refusal}, 403) if refusal else app
        await answer(scope, receive, send)

    return refuse_others


def _refusal(scope: Scope) -> str:
    """Return why a request is refused; empty if it is not.

    Example:
        >>> headers = [(b"host", b"127.0.0.1:7860"), (b"origin", b"http://127.0.0.1:9999")]
        >>> _refusal({"type": "http", "method": "POST", "headers": headers})
        'Requests from other sites are refused.'
    """
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if _parts(f"//{host}")[0] not in LOOPBACK:
        return f"Open this page at {LOOPBACK[0]}: it answers this machine only."
    origin = headers.get("origin") or ("" if opens_page(scope) else headers.get("referer", ""))
    if from_another_site(scope) or (origin and _parts(origin)[1] != host):
        return "Requests from other sites are refused."
    return ""


def _parts(url: str) -> tuple[str, str]:
    """Return the name of a URL's host, and the name with the port; empty if it is invalid."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""
