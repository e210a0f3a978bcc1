"""From a request's path to a handler, with the Hub's ways of writing repo ids and revisions."""

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.accounts import Caller
from hf_lorameta.localhub.state import HubState

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
LARGEST_BODY = 64 << 20  # of requests that carry JSON, not files


class Links:
    """Makes and checks links that work without a token, as a CDN's do.

    Args:
        secret: random bytes of this server.
    """

    def __init__(self, secret: bytes) -> None:
        self.base = ""  # 'http://127.0.0.1:PORT', once the port is known
        self.parts: dict[str, str] = {}  # of uploads under way: "oid/number" -> sha256 of the part
        self._secret = secret

    def _signature(self, method: str, path: str, query: str) -> str:
        text = f"{method} {path}?{query}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]

    def make(self, method: str, path: str, **params: str) -> str:
        """Returns an absolute link good for `method` (GET also means HEAD) on `path`."""
        query = urlencode(sorted(params.items()))
        signature = self._signature(method, path, query)
        return f"{self.base}{path}?{query}&Signature={signature}"

    def check(self, request: Request) -> dict[str, str]:
        """Returns the parameters of a link. Raises Refusal (403) if it was not made here."""
        params = dict(parse_qsl(request.url.query, keep_blank_values=True))
        given = params.pop("Signature", "")
        method = "GET" if request.method == "HEAD" else request.method
        query = urlencode(sorted(params.items()))
        if not hmac.compare_digest(given, self._signature(method, request.url.path, query)):
            raise http_errors.Refusal(403, "Access denied: the link's signature is not valid")
        return params


@dataclass(frozen=True)
class Settings:
    """How a hub behaves; see :class:`~hf_lorameta.localhub.LocalHub`."""

    uploads: str = "auto"
    lfs_part_size: int = 32 << 20
    page_size: int = 1000


@dataclass
class Call:
    """One request, on its way to a handler.

    Attributes:
        hub: the state.
        links: maker of signed links.
        settings: how the hub behaves.
        request: as starlette sees it.
        params: what the pattern's names matched: kind, repo, rev, path, ...
        body: the request's body; empty for handlers that read the stream.
    """

    hub: HubState
    links: Links
    settings: Settings
    request: Request
    params: dict[str, str]
    body: bytes = b""

    @cached_property
    def caller(self) -> Caller | None:
        """Who is asking. Raises Refusal (401) for a token nobody has."""
        return self.hub.accounts.caller(self.request.headers.get("authorization"))

    @property
    def kind(self) -> str:
        """The repo type named by the path; ``model`` where none is."""
        return KINDS[self.params.get("kind", "models")]

    @property
    def anonymous(self) -> bool:
        """Whether there is no token."""
        return self.caller is None

    @cached_property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises Refusal (400) if it is not one."""
        try:
            data = json.loads(self.body or b"{}")
        except ValueError as error:
            raise http_errors.Refusal(400, f"The body is not JSON: {error}") from error
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise http_errors.Refusal(400, "The body is not a JSON object")
        return data

    @cached_property
    def form(self) -> dict[str, list[str]]:
        """The body's fields, urlencoded or JSON, each as a list of texts."""
        if "json" in self.request.headers.get("content-type", ""):
            pairs = self.json.items()
            return {k: [str(x) for x in v] if isinstance(v, list) else [str(v)] for k, v in pairs}
        return parse_qs(self.body.decode("utf-8", "replace"))

    def query(self, name: str, default: str = "") -> str:
        """Returns a query parameter."""
        return self.request.query_params.get(name, default)

    def queries(self, name: str) -> list[str]:
        """Returns all values of a query parameter, also written ``name[]`` or with commas."""
        params = self.request.query_params
        values = [*params.getlist(name), *params.getlist(f"{name}[]")]
        return [part for value in values for part in value.split(",") if part]

    def flag(self, name: str) -> bool:
        """Says whether a query parameter is set to something that means yes."""
        return self.query(name).lower() in ("1", "true", "yes", "on")

    def page_link(self, **params: str) -> dict[str, str]:
        """Returns the Link header to this same request with other parameters."""
        own = [(k, v) for k, v in self.request.query_params.multi_items() if k not in params]
        path = self.request.scope["raw_path"].decode("ascii")
        url = f"{self.links.base}{path}?{urlencode([*own, *params.items()])}"
        return {"Link": f'<{url}>; rel="next"'}


Handler = Callable[[Call], Response]
StreamHandler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """A method, a pattern of the path and what answers.

    Patterns are segments; in braces: ``{kind}`` models, datasets or spaces; ``{repo}`` one segment
    or two; ``{git}`` the same ending in ``.git``; ``{rev}`` one segment, or ``refs/x/y``;
    ``{path*}`` all that is left; any other name one segment.

    Attributes:
        streams: the handler is async and reads the body itself.
    """

    method: str
    pattern: str
    handler: Handler | StreamHandler
    streams: bool = False

    def match(self, method: str, segments: list[str]) -> dict[str, str] | None:
        """Returns the values of the pattern's names, or None if the path is another."""
        if method != self.method and not (method == "HEAD" and self.method == "GET"):
            return None
        return next(_match(self.pattern.strip("/").split("/"), segments), None)


def segments_of(request: Request) -> list[str]:
    """Returns the path's segments, each decoded: an encoded slash does not split."""
    raw = request.scope["raw_path"].decode("ascii").partition("?")[0]
    return [unquote(part) for part in raw.strip("/").split("/")]


def _match(pattern: list[str], segments: list[str]) -> Iterator[dict[str, str]]:
    if not pattern:
        if not segments:
            yield {}
        return
    part, rest = pattern[0], pattern[1:]
    for taken in _takes(part, segments):
        for others in _match(rest, segments[taken:]):
            if part.startswith("{"):
                others = {part.strip("{}*"): "/".join(segments[:taken]), **others}
            yield others


def _takes(part: str, segments: list[str]) -> list[int]:
    """How many segments a part of a pattern may stand for, best first."""
    if part == "{path*}":
        return [len(segments)]
    if not segments or not segments[0]:
        return []
    if part == "{kind}":
        return [1] if segments[0] in KINDS else []
    if part == "{repo}":
        return [2, 1]
    if part == "{git}":
        return [n for n in (2, 1) if len(segments) >= n and segments[n - 1].endswith(".git")]
    if part == "{rev}":
        return [3, 1] if segments[0] == "refs" else [1]
    if part.startswith("{"):
        return [1]
    return [1] if segments[0] == part else []
