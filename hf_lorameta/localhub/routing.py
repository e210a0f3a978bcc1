"""Routes, and the request object that handlers receive."""

import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.accounts import Caller
from hf_lorameta.localhub.history import Commit, Discussion, Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.state import HubState

REPO_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}


class Links:
    """Create and verify signed links, which need no token, like those of a CDN.

    Args:
        secret: random bytes, different for each server.
    """

    def __init__(self, secret: bytes) -> None:
        self.base = ""  # 'http://127.0.0.1:PORT', set when the port is known
        self._secret = secret

    def _signature(self, method: str, path: str, query: str) -> str:
        text = f"{method} {path}?{query}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]

    def make(self, method: str, path: str, **params: str) -> str:
        """Return an absolute link that is valid for `method` (GET includes HEAD) on `path`."""
        query = urlencode(sorted(params.items()))
        signature = self._signature(method, path, query)
        return f"{self.base}{path}?{query}&Signature={signature}"

    def check(self, request: Request) -> dict[str, str]:
        """Return the parameters of a link. Raises HTTPError (403) for an invalid signature."""
        params = dict(parse_qsl(request.url.query, keep_blank_values=True))
        signature = params.pop("Signature", "")
        method = "GET" if request.method == "HEAD" else request.method
        query = urlencode(sorted(params.items()))
        if not hmac.compare_digest(signature, self._signature(method, request.url.path, query)):
            raise HTTPError(403, "Access denied: the link's signature is not valid")
        return params


@dataclass
class Server:
    """What all handlers share: the state, and the settings of `hf_lorameta.localhub.LocalHub`."""

    state: HubState
    links: Links
    uploads: str
    lfs_part_size: int
    page_size: int
    lfs_parts: dict[str, str] = field(default_factory=dict)  # "oid/number" -> sha256 of the part


@dataclass
class Call:
    """A request, as passed to a handler.

    Attributes:
        server: state, links and settings.
        request: the request itself.
        params: values of the route's placeholders: kind, repo, rev, path, ...
        body: the request body; empty for streaming handlers.
    """

    server: Server
    request: Request
    params: dict[str, str]
    body: bytes = b""

    @property
    def hub(self) -> HubState:
        """The state of the hub."""
        return self.server.state

    @cached_property
    def caller(self) -> Caller | None:
        """The sender; None if anonymous. Raises HTTPError (401) for an unknown token."""
        return self.hub.accounts.caller(self.request.headers.get("authorization"))

    @property
    def user(self) -> Caller:
        """The sender. Raises HTTPError (401) if anonymous."""
        if self.caller is None:
            raise HTTPError(401, "Invalid username or password.")
        return self.caller

    @property
    def writer(self) -> Caller:
        """The sender. Raises HTTPError: 401 if anonymous, 403 for a read-only token."""
        if self.user.role != "write":
            message = "Forbidden: you must use a write token to upload to a repository."
            raise HTTPError(403, message)
        return self.user

    @property
    def repo_type(self) -> str:
        """The repo type in the path; ``model`` if the path has none."""
        return REPO_TYPES[self.params.get("kind", "models")]

    def owns(self, repo: Repo) -> bool:
        """Return whether the caller may read and write the repo."""
        return self.caller is not None and self.caller.owns(repo.namespace)

    def can_see(self, repo: Repo) -> bool:
        """Return whether the repo is visible to the caller. Checks the token in any case."""
        return self.owns(repo) or not repo.private

    def visible_repo(self) -> Repo:
        """Return the repo in the path. Raises HTTPError (RepoNotFound) if it is not visible."""
        repo = self.hub.repos.get((self.repo_type, self.params["repo"]))
        if repo is None or not self.can_see(repo):
            raise http_errors.repo_not_found(anonymous=self.caller is None)
        return repo

    def readable_repo(self) -> Repo:
        """Return the repo in the path. Raises HTTPError if the caller may not read its files."""
        repo = self.visible_repo()
        granted = self.caller is not None and self.caller.user.name in repo.granted
        if repo.gated and not granted and not self.owns(repo):
            raise http_errors.gated_repo(repo.id, repo.type, anonymous=self.caller is None)
        return repo

    def writable_repo(self, by_pr: bool = False) -> Repo:
        """Return the repo in the path.

        Args:
            by_pr: the caller writes to a pull request, which every user may open.

        Raises:
            HTTPError: the caller may not write to it: 401, 403 or RepoNotFound.
        """
        repo = self.visible_repo()
        if not self.writer.owns(repo.namespace) and not by_pr:
            raise http_errors.write_forbidden()
        return repo

    def commit_of(self, repo: Repo) -> Commit:
        """Return the commit in the path; ``main`` if the path has no revision."""
        return repo.resolve(self.params.get("rev", "main"))

    def saved(self, repo: Repo, **answer: object) -> JSONResponse:
        """Save a repo after a change and return the response."""
        self.hub.save(repo)
        return JSONResponse(answer)

    def page_url(self, repo: Repo, discussion: Discussion | None = None) -> str:
        """Return the URL of the web page of a repo, or of one of its discussions."""
        url = f"{self.server.links.base}/{repo.page_path}"
        return f"{url}/discussions/{discussion.num}" if discussion else url

    @cached_property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises HTTPError (400) if it is not one."""
        try:
            data = json.loads(self.body or b"{}")
        except ValueError as error:
            raise HTTPError(400, f"The body is not JSON: {error}") from error
        if not isinstance(data, dict | None):
            raise HTTPError(400, "The body is not a JSON object")
        return data or {}

    @cached_property
    def form(self) -> dict[str, list[str]]:
        """The fields of a URL-encoded or JSON body, each as a list of strings."""
        if "json" in self.request.headers.get("content-type", ""):
            pairs = self.json.items()
            return {k: [str(x) for x in v] if isinstance(v, list) else [str(v)] for k, v in pairs}
        return parse_qs(self.body.decode("utf-8", "replace"))

    def query(self, name: str, default: str = "") -> str:
        """Return a query parameter."""
        return self.request.query_params.get(name, default)

    def query_int(self, name: str, default: int) -> int:
        """Return a query parameter as a number; `default` if it is missing or not a number."""
        text = self.query(name)
        return int(text) if text.isdigit() else default

    def query_list(self, name: str) -> list[str]:
        """Return all values of a query parameter: repeated, named ``name[]``, or with commas."""
        params = self.request.query_params
        values = [*params.getlist(name), *params.getlist(f"{name}[]")]
        return [part for value in values for part in value.split(",") if part]

    def flag(self, name: str) -> bool:
        """Return whether a query parameter is set to a true value."""
        return self.query(name).lower() in ("1", "true", "yes", "on")

    def next_link(self, **params: str) -> dict[str, str]:
        """Return the Link header to this request with other parameters."""
        others = [(k, v) for k, v in self.request.query_params.multi_items() if k not in params]
        path = self.request.scope["raw_path"].decode("ascii")
        url = f"{self.server.links.base}{path}?{urlencode([*others, *params.items()])}"
        return {"Link": f'<{url}>; rel="next"'}


Handler = Callable[[Call], Response]
StreamHandler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """A method, a path pattern and a handler.

    Placeholders of a pattern are in braces: ``{kind}`` models, datasets or spaces; ``{repo}`` one
    or two segments; ``{git}`` the same, ending in ``.git``; ``{rev}`` one segment, or
    ``refs/x/y``; ``{path*}`` any number of segments; any other name one segment. An encoded slash
    does not separate segments.

    Attributes:
        streams: the handler is async and reads the body itself. All other handlers run in a
            thread with the lock of the state.
    """

    method: str
    pattern: str
    handler: Handler | StreamHandler
    streams: bool = False

    def match(self, request: Request) -> dict[str, str] | None:
        """Return the decoded values of the placeholders; None if method or path do not match."""
        method = "GET" if request.method == "HEAD" else request.method
        path = request.scope["raw_path"].decode("ascii").partition("?")[0]
        match = _compile(self.pattern).fullmatch(path.strip("/")) if method == self.method else None
        return match and {k: unquote(v or "") for k, v in match.groupdict().items()}


_PLACEHOLDERS = {
    "{kind}": "(?P<kind>models|datasets|spaces)",
    "{repo}": "(?P<repo>[^/]+(?:/[^/]+)?)",
    "{git}": "(?P<git>[^/]+(?:/[^/]+)?[.]git)",
    "{rev}": "(?P<rev>refs/[^/]+/[^/]+|[^/]+)",
}


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    """Compile a pattern to a regular expression for the undecoded path, without outer slashes."""
    for placeholder, expression in _PLACEHOLDERS.items():
        pattern = pattern.replace(placeholder, expression)
    pattern = pattern.replace("/{path*}", "(?:/(?P<path>.*))?")
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", pattern))
