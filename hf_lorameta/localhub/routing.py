"""Routes, and the request object that handlers receive."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from hf_lorameta.localhub.errors import HTTPError, repo_not_found
from hf_lorameta.localhub.state import Commit, HubState, Repo, User


@dataclass
class Call:
    """A request, as passed to a handler. The methods raise the HTTPError to respond with."""

    hub: HubState
    request: Request
    params: dict[str, str]  # values of the route's placeholders: kind, repo, rev, path, ...
    body: bytes

    @cached_property
    def caller(self) -> User | None:
        """The sender; None if anonymous."""
        return self.hub.caller(self.request.headers.get("authorization"))

    @property
    def user(self) -> User:
        """The sender, who must not be anonymous."""
        if self.caller is None:
            raise HTTPError(401, "Invalid username or password.")
        return self.caller

    @property
    def repo_type(self) -> str:
        """The repo type in the path; ``model`` if the path has none."""
        return (self.params.get("kind") or "models").removesuffix("s")

    def owns(self, repo: Repo) -> bool:
        """Return whether the caller may read and write the repo."""
        return self.caller is not None and self.caller.owns(repo.namespace)

    def can_see(self, repo: Repo) -> bool:
        """Return whether the repo is visible to the caller. Checks the token in any case."""
        return self.owns(repo) or not repo.private

    def visible_repo(self) -> Repo:
        """Return the repo in the path, which must be visible to the caller."""
        repo = self.hub.find(self.repo_type, self.params["repo"])
        if repo is None or not self.can_see(repo):
            raise repo_not_found(anonymous=self.caller is None)
        return repo

    def writable_repo(self) -> Repo:
        """Return the repo in the path, to which the caller must be allowed to write."""
        repo = self.visible_repo()
        if not self.user.owns(repo.namespace):
            raise HTTPError(403, "Forbidden: you have no rights to write to this repository.")
        return repo

    def commit_of(self, repo: Repo) -> Commit:
        """Return the commit in the path; ``main`` if the path has no revision."""
        return repo.resolve(self.params.get("rev", "main"))

    @cached_property
    def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object or empty."""
        return dict(json.loads(self.body or b"{}"))

    def query(self, name: str) -> str:
        """Return a query parameter; empty if it is missing."""
        return self.request.query_params.get(name, "")

    def flag(self, name: str) -> bool:
        """Return whether a query parameter is set to a true value."""
        return self.query(name).lower() in ("1", "true")


_PLACEHOLDERS = {
    "{kind}": "(?P<kind>models|datasets|spaces)",
    "{kind?}/": "(?:(?P<kind>models|datasets|spaces)/)?",
    "{repo}": "(?P<repo>[^/]+(?:/[^/]+)?)",
    "{rev}": "(?P<rev>refs/[^/]+/[^/]+|[^/]+)",
    "/{path*}": "(?:/(?P<path>.*))?",
}


class Route:
    """A method, a path pattern and a handler.

    A pattern is a regular expression for the undecoded path, without outer slashes. Placeholders
    are in braces: those above, or any other name for one segment. An encoded slash does not
    separate segments, as in ``revision/refs%2Fpr%2F1``, so starlette's router cannot be used: it
    sees the decoded path. A route for GET also answers HEAD.
    """

    def __init__(self, method: str, pattern: str, handler: Callable[[Any], Response]) -> None:
        for placeholder, expression in _PLACEHOLDERS.items():
            pattern = pattern.replace(placeholder, expression)
        self._pattern = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", pattern))
        self._methods: tuple[str, ...] = ("GET", "HEAD") if method == "GET" else (method,)
        self.handler = handler

    def match(self, request: Request) -> dict[str, str] | None:
        """Return the decoded values of the placeholders; None if method or path do not match."""
        path = request.scope["raw_path"].decode("ascii").strip("/")
        match = self._pattern.fullmatch(path) if request.method in self._methods else None
        return match and {k: unquote(v or "") for k, v in match.groupdict().items()}
