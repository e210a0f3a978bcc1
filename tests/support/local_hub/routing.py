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

from tests.support.local_hub.errors import HTTPError, gated_repo, repo_not_found
from tests.support.local_hub.state import Account, Commit, HubState, Repo


@dataclass
class Call:
    """A request, as passed to a handler. The methods raise the HTTPError to respond with."""

    hub: HubState
    request: Request
    params: dict[str, str]  # values of the route's placeholders: kind, repo, rev, path, ...
    body: bytes

    @cached_property
    def caller(self) -> Account | None:
        """The sender; None if anonymous."""
        return self.hub.caller(self.request.headers.get("authorization"))

    @property
    def user(self) -> Account:
        """The sender, who must not be anonymous."""
        if self.caller is None:
            raise HTTPError(401, "Invalid username or password.")
        return self.caller

    @property
    def writer(self) -> Account:
        """The sender, who must have a write token."""
        if self.user.role != "write":
            message = "Forbidden: you must use a write token to upload to a repository."
            raise HTTPError(403, message)
        return self.user

    @property
    def repo_type(self) -> str:
        """The repo type in the path; ``model`` if the path has none."""
        return (self.params.get("kind") or "models").removesuffix("s")

    def owns(self, repo: Repo) -> bool:
        """Return whether the caller may read and write the repo."""
        caller = self.caller
        return caller is not None and (caller.owns(repo.namespace) or caller.repo == repo.resource)

    def can_see(self, repo: Repo) -> bool:
        """Return whether the repo is visible to the caller. Checks the token in any case."""
        return self.owns(repo) or not repo.private

    def visible_repo(self) -> Repo:
        """Return the repo in the path, which must be visible to the caller."""
        repo = self.hub.find(self.repo_type, self.params["repo"])
        if repo is None or not self.can_see(repo):
            raise repo_not_found(anonymous=self.caller is None)
        return repo

    def readable_repo(self) -> Repo:
        """Return the repo in the path, to which access must be granted if it is gated."""
        repo = self.visible_repo()
        granted = self.caller is not None and self.caller.name in repo.granted
        if repo.gated and not granted and not self.owns(repo):
            raise gated_repo(repo.id, repo.type, anonymous=self.caller is None)
        return repo

    def writable_repo(self) -> Repo:
        """Return the repo in the path, to which the caller must be allowed to write.

        Everybody may open a pull request, and the user who opened one may commit to it.
        """
        repo = self.visible_repo()
        proposed = repo.proposers.get(self.params.get("rev", "")) == self.writer.name
        if not self.owns(repo) and not self._opens_pull_request and not proposed:
            message = "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"
            raise HTTPError(403, message)
        return repo

    @property
    def _opens_pull_request(self) -> bool:
        path = self.request.url.path
        if path.endswith(".git/info/lfs/objects/batch"):
            return "ref" not in self.json
        return self.flag("create_pr") and ("/commit/" in path or "/preupload/" in path)

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

    def query_int(self, name: str, default: int) -> int:
        """Return a query parameter as a number; `default` if it is missing or not a number."""
        text = self.query(name)
        return int(text) if text.isdigit() else default

    def query_list(self, name: str) -> list[str]:
        """Return all values of a query parameter named `name` or ``name[]``."""
        params = self.request.query_params
        return [*params.getlist(name), *params.getlist(f"{name}[]")]


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
