"""ASGI middleware for a page on one's own machine, which can act with the token saved there.

Only the address with the key, which is new at every start and printed once, is signed in. The key
is the first part of the path, so a browser sends it to no other server, not even to one at another
port of this machine, as it would a cookie.
"""

from secrets import compare_digest
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from limits.callers import from_another_site, opens_page
from settings import LOOPBACK


class OwnMachine:
    """Middleware: signs in requests under the key, and refuses those of other hosts and origins.

    A page of another site can send requests here, and can read the answers if its host name points
    to this machine (DNS rebinding).

    Args:
        app: to protect; it finds the sign-in where Gradio looks for one, in the request's session.
        key: first part of the path of signed-in requests; it is also their token.
        user: who they are.
    """

    def __init__(self, app: ASGIApp, *, key: str, user: str) -> None:
        self._app, self._key = app, key
        profile = {"name": user, "preferred_username": user, "profile": "", "picture": ""}
        info = {"access_token": key, "scope": "", "expires_at": None, "userinfo": profile}
        self._session = {"oauth_info": info}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request from this machine's own page, signed in if it has the key."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if refusal := _refusal(scope):
            await JSONResponse({"detail": refusal}, 403)(scope, receive, send)
            return
        first, slash, _ = scope["path"][1:].partition("/")
        if compare_digest(first.encode(), self._key.encode()):
            if not slash:
                query = scope["query_string"].decode("latin-1")
                await RedirectResponse(f"/{first}/?{query}")(scope, receive, send)
                return
            scope = {**scope, "root_path": f"/{first}", "session": dict(self._session)}
        await self._app(scope, receive, send)


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
        return f"Open this page at {LOOPBACK[0]}: it acts with the token of this machine."
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
